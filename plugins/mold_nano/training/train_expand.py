"""Trains expand-nano from nothing on pairs of wishes and prompts; resumes from its checkpoint.

    python train_expand.py --work /path/to/scratch --out ../mold_nano/models/expand-nano --minutes 25

The tokenizer, one token per word, is written to `--out` at the first start and read from there afterwards. Only the
prompt's tokens are scored: the model need not predict wishes.
"""

import argparse
import math
import time
from pathlib import Path
from random import Random

import torch
from language_model import LanguageModel, Shape
from optim import Optimiser, save, schedule
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from wishes import Pair, Pairs, wish_words

END_OF_TEXT, START, END, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"
SPECIAL = (END_OF_TEXT, START, END, "<think>", "</think>", UNKNOWN)
BATCH = 96
SAVE_EVERY_S = 60.0


def word_tokenizer(words: list[str]) -> Tokenizer:
    """Returns a tokenizer with ChatML's tokens and one token per word, blind to capitals and punctuation."""
    entries = [*SPECIAL, "user", "assistant", *words]
    tokenizer = Tokenizer(models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return tokenizer


def framed(wish: str) -> str:
    """Returns a wish in Qwen3's chat format with thinking off, up to where the answer begins."""
    return f"{START}user\n{wish}{END}\n{START}assistant\n<think>\n\n</think>\n\n"


def batch_of(pairs: list[Pair], tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Returns ids (B, L) and the next ids (B, L), with -100 where nothing is scored."""
    questions = tokenizer.encode_batch([framed(pair.wish) for pair in pairs])
    answers = tokenizer.encode_batch([pair.prompt + END for pair in pairs])
    rows = [(question.ids, answer.ids) for question, answer in zip(questions, answers, strict=True)]
    length = max(len(question) + len(answer) for question, answer in rows) - 1
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    targets = torch.full((len(rows), length), -100)
    for row, (question, answer) in enumerate(rows):
        whole = torch.tensor([*question, *answer])
        ids[row, : len(whole) - 1] = whole[:-1]
        targets[row, len(question) - 1 : len(whole) - 1] = whole[len(question) :]
    return ids, targets


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon moves a parameter: the matrices inside the layers."""
    return parameter.ndim == 2 and "embed" not in name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, for its tokenizer")
    parser.add_argument("--minutes", type=float, default=25.0, help="training time, over all resumptions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    path = arguments.work / "expand.pt"
    state = torch.load(path, weights_only=True) if path.exists() else None
    rng = Random(1 if state is None else state["optimiser"]["step_count"])
    started = time.monotonic()
    pairs = Pairs(rng)
    tokenizer_path = arguments.out / "tokenizer.json"
    if not tokenizer_path.exists():
        arguments.out.mkdir(parents=True, exist_ok=True)
        word_tokenizer(wish_words(pairs)).save(str(tokenizer_path))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    model = LanguageModel(Shape(vocabulary=math.ceil(tokenizer.get_vocab_size() / 32) * 32)).bfloat16()
    optimiser = Optimiser(
        model.named_parameters(), is_matrix=is_matrix, rank=0, world=1, muon_lr=0.02, adam_lr=3e-3, ema_decay=0.998
    )
    before = 0.0
    if state is not None:
        optimiser.load_state_dict(state["optimiser"])
        before = state["elapsed_s"]
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count:,} parameters, pairs ready after {time.monotonic() - started:.0f} s")
    started = saved = time.monotonic()
    total_s = arguments.minutes * 60
    recent = 0.0
    while (elapsed := before + time.monotonic() - started) < total_s:
        ids, targets = batch_of([pairs.draw() for _ in range(BATCH)], tokenizer)
        loss = F.cross_entropy(model(ids).float().flatten(0, 1), targets.flatten(), ignore_index=-100)
        model.zero_grad()
        loss.backward()
        factor = schedule(elapsed, total_s, optimiser.step_count, warmup_steps=50, decay=0.5)
        optimiser.step(factor)
        recent = loss.item() if recent == 0.0 else 0.98 * recent + 0.02 * loss.item()
        if optimiser.step_count % 50 == 0:
            print(f"{elapsed / 60:5.1f} min  step {optimiser.step_count:6}  loss {recent:.4f}", flush=True)
        if time.monotonic() - saved > SAVE_EVERY_S:
            store(path, optimiser, model.shape, elapsed)
            saved = time.monotonic()
    store(path, optimiser, model.shape, elapsed)


def store(path: Path, optimiser: Optimiser, shape: Shape, elapsed_s: float) -> None:
    """Writes the checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = {"optimiser": optimiser.state_dict(), "elapsed_s": elapsed_s, "vocabulary": shape.vocabulary}
    save(path, value)


if __name__ == "__main__":
    main()
