"""Prompt expansion on a CPU: mold's language model against transformers with the same file.

Two layers with the widths of Qwen3-1.7B and random weights, in 8-bit blocks. transformers dequantizes the file on
loading, to its default dtype for the comparison, and to bf16 for information. mold keeps the weights as int8 rows. Both
run on one thread, one token at a time, in turn; processor time is compared. Memory is that of all weights after
loading. The last figure is four variations of one prompt against one, prompt processing included.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import thread_time

import torch
from common import Comparison, compare, report
from torch import nn
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

sys.path.append(str(Path(__file__).parents[1] / "tests" / "fakes"))

from qwen3_files import dense_qwen3, write_qwen3

from mold_expand.checkpoints import load_qwen3
from mold_expand.qwen3 import Continuations, Qwen3
from mold_expand.writing import Sampling, write

WIDTHS = {
    "vocab_size": 8192,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_theta": 1_000_000.0,
}
PREFIX = list(range(1, 201))  # about as long as the instructions and a wish
TOKENS = 16
ANSWER = 80
PAIRS = 5


def main() -> None:
    """Decoding speed and memory of the packed path ÷ transformers' GGUF loading, and what variations cost."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        written = dense_qwen3(**WIDTHS)
        config = written.config
        write_qwen3(path, written)
        del written
        ours = load_qwen3(path, "cpu", torch.bfloat16, small=0)
        theirs = transformers_model(path, config)
        halves = transformers_model(path, config, dtype=torch.bfloat16)
        dtype = str(theirs.dtype).removeprefix("torch.")
        print(f"weights held: mold {held(ours) / 1e6:.0f} MB, transformers {held(theirs) / 1e6:.0f} MB in {dtype}, "
              f"{held(halves) / 1e6:.0f} MB in bfloat16; file {path.stat().st_size / 1e6:.0f} MB")  # fmt: skip
        with torch.inference_mode():
            against = compare(decoding(ours), their_decoding(theirs), pairs=PAIRS, clock=thread_time)
            against_halves = compare(decoding(ours), their_decoding(halves), pairs=PAIRS, clock=thread_time)
        print(against.describe(f"{TOKENS} tokens, mold", f"transformers, {dtype}"))
        print(against_halves.describe(f"{TOKENS} tokens, mold", "transformers, bfloat16"))
        faster, than_halves = 1 / against.ratio, 1 / against_halves.ratio
        print(f"tokens per second: mold {per_second(against):.0f}; transformers' {dtype} times {faster:.2f}")
        print(f"and transformers' bfloat16 times {than_halves:.2f}")
        report("tokens per second, packed ÷ transformers", 1 / against.ratio, 2.0, "×", better="higher")
        report("memory of the packed path ÷ transformers", held(ours) / held(theirs), 0.4, "×", better="lower")
        del theirs, halves
        several = compare(lambda: answers(ours, 4), lambda: answers(ours, 1), pairs=3, clock=thread_time)
        print(several.describe(f"four answers of {ANSWER} tokens", "one"))
        report("four variations ÷ one", several.ratio, 1.6, "×", better="lower")


def transformers_model(path: Path, config: Qwen3Config, **options: torch.dtype) -> Qwen3ForCausalLM:
    """Return the file as transformers loads it."""
    model = Qwen3ForCausalLM.from_pretrained(path.parent, gguf_file=path.name, config=config, **options)
    return model.eval()


def held(model: nn.Module) -> int:
    """Return the bytes of a model's weights, what several layers share counted once."""
    memory = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return sum(memory.values())


def decoding(model: Qwen3) -> Callable[[], object]:
    """Return a function that writes some tokens after a text that was read before."""
    _, prefix = model.read(torch.tensor(PREFIX))

    def run() -> None:
        texts = Continuations(prefix, 1, TOKENS)
        for token in range(TOKENS):
            model.continue_texts(torch.tensor([token]), texts)

    return run


def their_decoding(model: Qwen3ForCausalLM) -> Callable[[], object]:
    """Return the same for a model of transformers."""
    cache = DynamicCache(config=model.config)
    model(torch.tensor([PREFIX]), past_key_values=cache, use_cache=True)

    def run() -> None:
        for token in range(TOKENS):
            model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        cache.crop(-TOKENS)

    return run


def answers(model: Qwen3, count: int) -> None:
    """Write some answers to one question, none of which ends early."""
    write(model, PREFIX, seeds=range(count), max_tokens=ANSWER, stop=frozenset(), sampling=Sampling())


def per_second(times: Comparison) -> float:
    return TOKENS / sorted(times.ours)[len(times.ours) // 2]


if __name__ == "__main__":
    main()
