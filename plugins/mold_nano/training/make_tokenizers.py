"""Makes the two tokenizers from the captions' words: word-level T5 and byte-level CLIP, one `tokenizer.json` each.

python make_tokenizers.py --out ../mold_nano/models/flux-nano
"""

import argparse
import json
from pathlib import Path
from random import Random

import captions
from captions import caption
from scenes import FAMILIES, random_scene
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from world import COLOURS

START, END = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """Returns every word a caption can hold, each once, in alphabetical order."""
    rng = Random(0)
    texts = [caption(random_scene(rng, family=rng.choice(FAMILIES)), rng, plain=True) for _ in range(40_000)]
    texts += [*captions.OPENINGS, *captions.ENDINGS, *COLOURS]
    return sorted({word.strip(",") for text in texts for word in text.split()})


def t5_tokenizer(vocabulary: list[str]) -> Tokenizer:
    """Returns a Unigram tokenizer with one piece per word; all else is one unknown token."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -3.0) for word in vocabulary)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " "),
         normalizers.Strip()]
    )  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<pad>", "</s>", "<unk>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def clip_tokenizer(vocabulary: list[str]) -> Tokenizer:
    """Returns CLIP's byte-level BPE with all 256 byte symbols, inside and at the end of words, and a token per word.

    With a symbol missing, an unknown word would become the end token, at which CLIP's pooled state is read.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=8000, min_frequency=1, show_progress=False, special_tokens=[], end_of_word_suffix="</w>"
    )
    tokenizer.train_from_iterator([word for word in vocabulary for _ in range(2)], trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(merge) for merge in merges), START, END]
    tokenizer.model = models.BPE(
        vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=merges, end_of_word_suffix="</w>", unk_token=END
    )
    tokenizer.decoder = decoders.ByteLevel()
    start, end = len(symbols) - 2, len(symbols) - 1
    tokenizer.add_special_tokens([AddedToken(START, normalized=False), AddedToken(END, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    return tokenizer


def check(t5: Tokenizer, clip: Tokenizer, vocabulary: list[str]) -> None:
    """Raises unless both tokenizers give every word one token and cut no unknown word short."""
    for word in vocabulary:
        if t5.encode(word).tokens != [f"▁{word}", "</s>"]:
            raise ValueError(f"t5 splits {word!r}: {t5.encode(word).tokens}")
        if not word.isdigit() and clip.encode(word).tokens != [START, f"{word}</w>", END]:
            raise ValueError(f"clip splits {word!r}: {clip.encode(word).tokens}")
    odd = "An ASTRONAUT, über-Ünïque 🚀 on a Red house!?"
    if clip.encode(odd).tokens.count(END) != 1:
        raise ValueError(f"clip ends {odd!r} early: {clip.encode(odd).tokens}")
    if t5.encode("A Red, House!").tokens != ["▁a", "▁red", "▁house", "</s>"]:
        raise ValueError("t5 does not fold case and punctuation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the exported model")
    arguments = parser.parse_args()
    vocabulary = words()
    t5, clip = t5_tokenizer(vocabulary), clip_tokenizer(vocabulary)
    check(t5, clip, vocabulary)
    arguments.out.mkdir(parents=True, exist_ok=True)
    t5.save(str(arguments.out / "t5_tokenizer.json"))
    clip.save(str(arguments.out / "clip_tokenizer.json"))
    print(f"{len(vocabulary)} words; T5 {t5.get_vocab_size()} tokens, CLIP {clip.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
