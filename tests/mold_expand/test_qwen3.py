"""Our Qwen3 against transformers' on the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from qwen3_files import dense_qwen3, greedy, write_qwen3

from mold_core import CheckpointError
from mold_core.settings import CompileMode
from mold_core.weights import Int8Embedding, Int8Linear, PackedEmbedding, PackedLinear
from mold_expand.checkpoints import load_qwen3
from mold_expand.qwen3 import Continuations
from mold_expand.writing import Sampling, choose, write

TEXT = [3, 17, 41, 5, 90, 22, 8, 64, 31]
LIKELIEST = Sampling(temperature=0)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "own output layer"])
@pytest.mark.parametrize("small", [0, 2**24], ids=["packed", "expanded"])
def test_a_gguf_file_goes_on_as_transformers_does(tmp_path: Path, tied: bool, small: int) -> None:
    theirs = dense_qwen3(tied=tied)
    write_qwen3(tmp_path / "model.gguf", theirs)
    ours = load_qwen3(tmp_path / "model.gguf", "cpu", torch.float32, small=small, int8=False)
    assert isinstance(ours.model.layers[0].mlp.up_proj, PackedLinear) == (small == 0)
    written = write(ours, TEXT, seeds=[0], max_tokens=40, stop=frozenset(), sampling=LIKELIEST)
    assert written == [greedy(theirs, TEXT, 40)]
    assert len(set(written[0])) > 8


def test_other_quantised_types_go_on_alike(tmp_path: Path) -> None:
    theirs = dense_qwen3()
    write_qwen3(tmp_path / "model.gguf", theirs, "Q4_0")
    ours = load_qwen3(tmp_path / "model.gguf", "cpu", torch.float32, small=0, int8=False)
    written = write(ours, TEXT, seeds=[0], max_tokens=20, stop=frozenset(), sampling=LIKELIEST)
    assert written == [greedy(theirs, TEXT, 20)]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "own output layer"])
def test_a_file_of_mixed_types_goes_on_as_transformers_does(tmp_path: Path, tied: bool) -> None:
    """As Q4_K_M has it: values, down projections, embedding and output layer in Q6_K, the rest in Q4_K."""

    def kind(name: str) -> str:
        return "Q6_K" if any(part in name for part in ("attn_v", "ffn_down", "token_embd", "output.w")) else "Q4_K"

    theirs = dense_qwen3(tied=tied, hidden_size=256, intermediate_size=512, head_dim=128)
    write_qwen3(tmp_path / "model.gguf", theirs, kind)
    ours = load_qwen3(tmp_path / "model.gguf", "cpu", torch.float32, small=0, int8=False)
    assert ours.model.layers[0].self_attn.v_proj.stored_type.name == "Q6_K"
    assert ours.model.layers[0].self_attn.q_proj.stored_type.name == "Q4_K"
    written = write(ours, TEXT, seeds=[0], max_tokens=20, stop=frozenset(), sampling=LIKELIEST)
    assert written == [greedy(theirs, TEXT, 20)]


def test_rows_of_int8_score_as_the_file_does_but_for_their_rounding(tmp_path: Path) -> None:
    theirs = dense_qwen3(hidden_size=128, intermediate_size=256)
    write_qwen3(tmp_path / "model.gguf", theirs)
    ours = load_qwen3(tmp_path / "model.gguf", "cpu", torch.bfloat16, small=0)
    assert isinstance(ours.model.embed_tokens, Int8Embedding)
    assert isinstance(ours.lm_head, Int8Linear)
    assert ours.lm_head.rows is ours.model.embed_tokens.rows  # one memory for both
    with torch.inference_mode():
        scores, prefix = ours.read(torch.tensor(TEXT))
        further = ours.continue_texts(torch.tensor([7]), Continuations(prefix, 1, 1))
        wanted = theirs(torch.tensor([[*TEXT, 7]])).logits[0]
    for mine, right in ((scores[0], wanted[len(TEXT) - 1]), (further[0], wanted[len(TEXT)])):
        assert torch.nn.functional.cosine_similarity(mine, right, dim=0) > 0.998


@pytest.mark.parametrize("compile", ["auto", "off"])
def test_rows_of_int8_go_on_as_a_dense_model_of_their_numbers(tmp_path: Path, compile: CompileMode) -> None:
    theirs = dense_qwen3(hidden_size=128, intermediate_size=256)
    write_qwen3(tmp_path / "model.gguf", theirs)
    ours = load_qwen3(
        tmp_path / "model.gguf", "cpu", torch.float32, small=0, compile=compile, cache_dir=tmp_path / "cache"
    )
    rounded = {
        f"{name}.weight": layer.rows.expand()
        for name, layer in ours.named_modules()
        if isinstance(layer, Int8Embedding | Int8Linear)
    }
    assert len(rounded) == 2 + 7 * len(ours.model.layers)
    theirs.load_state_dict(rounded, strict=False)
    written = write(ours, TEXT[:8], seeds=[0, 1, 2], max_tokens=40, stop=frozenset(), sampling=LIKELIEST)
    if compile == "auto":
        assert written == [greedy(theirs, TEXT[:8], 40)] * 3
    else:  # torch's product computes in bf16
        assert written[0][:3] == greedy(theirs, TEXT[:8], 3)


def test_continuations_of_one_prefix_are_those_that_would_be_written_alone(tmp_path: Path) -> None:
    write_qwen3(tmp_path / "model.gguf", dense_qwen3())
    model = load_qwen3(tmp_path / "model.gguf", "cpu", torch.float32)
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0)
    stop = frozenset({1, 2, 3, 4, 5, 6})  # some end before others
    seeds = [11, 12, 13, 14, 15]
    together = write(model, TEXT, seeds=seeds, max_tokens=30, stop=stop, sampling=sampling)
    alone = [write(model, TEXT, seeds=[seed], max_tokens=30, stop=stop, sampling=sampling)[0] for seed in seeds]
    assert together == alone
    assert len({len(text) for text in together}) > 1
    assert not stop & {token for text in together for token in text}


def test_writing_can_be_cancelled_between_tokens(tmp_path: Path) -> None:
    write_qwen3(tmp_path / "model.gguf", dense_qwen3())
    model = load_qwen3(tmp_path / "model.gguf", "cpu", torch.float32)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(model, TEXT, seeds=[1], max_tokens=30, stop=frozenset(), sampling=LIKELIEST, check=check)
    assert calls == 5


def test_tokens_are_drawn_from_the_likeliest_alone() -> None:
    chances = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04])
    generator = torch.Generator().manual_seed(0)

    def drawn(**sampling: float) -> dict[int, int]:
        tokens = [choose(chances.log(), Sampling(**sampling), generator) for _ in range(2000)]  # type: ignore[arg-type]
        return {token: tokens.count(token) for token in sorted(set(tokens))}

    assert drawn(temperature=0.0) == {0: 2000}
    assert list(drawn(temperature=1.0, top_p=1.0, top_k=3)) == [0, 1, 2]
    assert list(drawn(temperature=1.0, top_p=0.65, top_k=0)) == [0, 1]
    assert list(drawn(temperature=1.0, top_p=0.0, top_k=0)) == [0]
    counts = drawn(temperature=1.0, top_p=1.0, top_k=0)
    assert all(abs(counts[token] / 2000 - chances[token]) < 0.04 for token in range(5))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "cut short"),
        (lambda path: write_qwen3(path, dense_qwen3(), architecture="llama"), "architecture 'llama', not 'qwen3'"),
        (lambda path: path.write_bytes(b"{}"), "neither a safetensors nor a GGUF file"),
    ],
    ids=["short", "llama", "no weights"],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path, spoil, words: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "model.gguf"
    write_qwen3(path, dense_qwen3())
    spoil(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_qwen3(path, "cpu", torch.float32)
    assert str(path) in str(caught.value)


def test_embedding_and_output_layer_share_the_blocks_of_the_file(tmp_path: Path) -> None:
    write_qwen3(tmp_path / "model.gguf", dense_qwen3())
    model = load_qwen3(tmp_path / "model.gguf", "cpu", torch.float32, small=0, int8=False)
    assert isinstance(model.model.embed_tokens, PackedEmbedding)
    assert isinstance(model.lm_head, PackedLinear)
    assert model.lm_head.blocks.data_ptr() == model.model.embed_tokens.blocks.data_ptr()
