"""Writes the tokenizer of ltx2-nano: a word is a token, begun as Gemma's are.

python make_ltx2_tokenizer.py --out ../mold_nano/models/ltx2-nano
"""

import argparse
from pathlib import Path

from clips import words
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")


def tokenizer() -> Tokenizer:
    """Returns the tokenizer: case and punctuation do not count, an unknown word is `<unk>`."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *words()))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\p{L}\p{N}]+"), behavior="removed", invert=True)
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the exported model")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    if made.encode("A Red, BALL!? über").tokens != ["<bos>", "a", "red", "ball", "<unk>"]:
        raise SystemExit("the tokenizer does not fold case and punctuation")
    made.save(str(arguments.out / "tokenizer.json"))
    print(f"{made.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
