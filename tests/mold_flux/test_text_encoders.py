"""Prompts become the tokens and embeddings that transformers makes of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import transformers

from mold_core import CheckpointError
from mold_flux.checkpoints import clip_tensors, load_weights, t5_tensors
from mold_flux.text_encoders import CLIP_L, T5_XXL, ClipConfig, ClipTextEncoder, ClipTokenizer, T5Encoder, T5Tokenizer
from mold_flux.text_encoders import T5Config as OurT5Config

PROMPTS = [
    "",
    "a red house on a hill",
    "A  Red\nHouse,\tnext to 3 trees -- isn't it?",
    "ein grünes Boot, 東京 🚲🦊 e\u0301",
    "nul \x00 inside, and \x7f",
    "<|endoftext|> and </s> and <pad> are only words",
    "tree " * 200,
]


@pytest.fixture(scope="module")
def clip_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.CLIPTokenizer]:
    """A byte-pair tokenizer of all bytes and a few merges, and its file."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "o"), ("t", "r"), ("e", "e</w>"), ("tr", "ee</w>"), ("r", "e"), ("re", "d</w>"), ("s", "e</w>")]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer.save_pretrained(folder)
    return folder / "tokenizer.json", tokenizer


@pytest.fixture(scope="module")
def t5_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.T5Tokenizer]:
    """A unigram tokenizer of a few words and the letters, and its file."""
    words = ["▁a", "▁red", "▁house", "▁tree", "▁", "ho", "use", *"abcdefghijklmnopqrstuvwxyz.,<>/"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -float(len(words))) for word in words)]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=512)
    folder = tmp_path_factory.mktemp("t5")
    tokenizer.save_pretrained(folder)
    return folder / "tokenizer.json", tokenizer


def theirs(tokenizer: transformers.PreTrainedTokenizerBase, prompts: list[str], length: int) -> torch.Tensor:
    made = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return made.input_ids


@pytest.mark.parametrize("length", [77, 5])
def test_clip_ids_equal_those_of_transformers(clip_tokenizer: tuple, length: int) -> None:
    path, reference = clip_tokenizer
    ids = ClipTokenizer(path, length=length).encode(PROMPTS)
    assert ids.dtype == torch.int64
    assert torch.equal(ids, theirs(reference, PROMPTS, length))


@pytest.mark.parametrize("length", [512, 32, 5])
def test_t5_ids_equal_those_of_transformers(t5_tokenizer: tuple, length: int) -> None:
    path, reference = t5_tokenizer
    assert torch.equal(T5Tokenizer(path).encode(PROMPTS, length), theirs(reference, PROMPTS, length))


def test_half_a_surrogate_pair_does_no_harm(clip_tokenizer: tuple, t5_tokenizer: tuple) -> None:
    for tokenizer in (ClipTokenizer(clip_tokenizer[0]), T5Tokenizer(t5_tokenizer[0])):
        assert torch.equal(tokenizer.encode(["a \ud83d house"]), tokenizer.encode(["a ? house"]))


@pytest.mark.parametrize("prompt", ["tree " * 20_000, "x" * 100_000, "🦊" * 25_000, "\x00" * 100_000])
def test_a_prompt_of_100_kilobytes_takes_under_a_second(
    clip_tokenizer: tuple, t5_tokenizer: tuple, prompt: str
) -> None:
    started = time.process_time()
    assert ClipTokenizer(clip_tokenizer[0]).encode([prompt]).shape == (1, 77)
    assert T5Tokenizer(t5_tokenizer[0]).encode([prompt]).shape == (1, 512)
    assert time.process_time() - started < 1


def test_a_tokenizer_of_another_model_is_refused(t5_tokenizer: tuple) -> None:
    with pytest.raises(CheckpointError, match=r"it lacks <\|startoftext\|>, <\|endoftext\|>"):
        ClipTokenizer(t5_tokenizer[0])


def clip_pair(activation: str) -> tuple[ClipTextEncoder, transformers.CLIPTextModel]:
    torch.manual_seed(0)
    reference = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=20,
            hidden_act=activation,
            bos_token_id=58,
            eos_token_id=59,
            pad_token_id=59,
        )
    ).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    config = ClipConfig(
        hidden_size=32, mlp_size=48, heads=4, depth=3, vocabulary=60, positions=20, activation=activation, eos_id=59
    )
    encoder = ClipTextEncoder(config)
    load_weights(encoder, clip_tensors(reference.state_dict()), "the test's CLIP")
    return encoder, reference


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_clip_pools_what_transformers_pools(activation: str) -> None:
    encoder, reference = clip_pair(activation)
    ids = torch.randint(0, 58, (3, 20))
    ids[0, 4:], ids[1, 19:], ids[2, 9] = 59, 59, 59  # the third goes on after its EOS
    torch.testing.assert_close(encoder(ids), reference(ids).pooler_output, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_clip_does_not_look_past_the_end_of_a_prompt() -> None:
    encoder, _ = clip_pair("quick_gelu")
    short = torch.tensor([[58, 3, 4, 59]])
    torch.testing.assert_close(
        encoder(torch.nn.functional.pad(short, (0, 16), value=59)), encoder(short), atol=0, rtol=0
    )


def t5_pair() -> tuple[T5Encoder, transformers.T5EncoderModel]:
    torch.manual_seed(0)
    reference = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=50, d_model=32, d_kv=8, d_ff=40, num_layers=3, num_heads=3, feed_forward_proj="gated-gelu"
        )
    ).eval()
    for name, parameter in reference.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    config = OurT5Config(hidden_size=32, mlp_size=40, heads=3, head_dim=8, depth=3, vocabulary=50)
    encoder = T5Encoder(config)
    load_weights(encoder, t5_tensors(reference.state_dict()), "the test's T5")
    return encoder, reference


@pytest.mark.parametrize("length", [1, 9, 300])  # further apart than 128 tokens, distances share a bucket
@torch.no_grad()
def test_t5_embeddings_equal_those_of_transformers(length: int) -> None:
    encoder, reference = t5_pair()
    ids = torch.randint(0, 50, (2, length))
    torch.testing.assert_close(encoder(ids), reference(ids).last_hidden_state, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_t5_stays_finite_in_fp16_where_its_stream_overflows() -> None:
    encoder, _ = t5_pair()
    encoder.get_parameter("encoder.block.0.layer.1.DenseReluDense.wo.weight").mul_(1e4)
    encoder.half()
    assert encoder(torch.randint(0, 50, (1, 9))).isfinite().all()


def test_the_published_sizes_make_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        clip, t5 = ClipTextEncoder(CLIP_L), T5Encoder(T5_XXL)
    assert sum(parameter.numel() for parameter in clip.parameters()) == 123_060_480
    assert sum(parameter.numel() for parameter in t5.parameters()) == 4_762_310_656
