"""Split the names of tensors in LoRA files into layer and role, and find the method that the roles of a layer imply.

Trainers spell one role in several ways: `lora_A`, `lora_down` and `lora.down` all name the first matrix of a pair.
Roles and methods are those of LoRA (Hu et al. 2021, arXiv 2106.09685), DoRA (arXiv 2402.09353), LyCORIS (LoHa, LoKr,
OFT, BOFT, IA3, GLoRA, norms and full differences; arXiv 2309.14859) and PEFT. Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from attrs import frozen

__all__ = ["TensorKey", "flat", "method_of", "split_key", "stems"]


@frozen(kw_only=True)
class TensorKey:
    """The name of a tensor in a LoRA file: `stem` names the layer, `role` is the tensor's function in it."""

    stem: str
    role: str


_ADAPTER = r"(\.(?!weight$|bias$)\w+)?"  # PEFT's adapter name, if the file has one
_ROLES = (
    (rf"\.lora_A{_ADAPTER}\.weight", "down"),
    (rf"\.lora_B{_ADAPTER}\.weight", "up"),
    (rf"\.lora_B{_ADAPTER}\.bias", "up_bias"),
    (r"\.(lora_down|lora\.down|lora_linear_layer\.down)\.weight", "down"),
    (r"\.(lora_up|lora\.up|lora_linear_layer\.up)\.weight", "up"),
    (r"\.(lora_up|lora\.up|lora_linear_layer\.up)\.bias", "up_bias"),
    (r"(?<=_lora)\.down\.weight", "down"),  # XLabs' and USO's processors
    (r"(?<=_lora)\.up\.weight", "up"),
    (r"(?<=_lora[12])\.down\.weight", "down"),
    (r"(?<=_lora[12])\.up\.weight", "up"),
    (r"\.lora_mid\.weight", "mid"),
    (r"\.alpha", "alpha"),
    (rf"\.lora_magnitude_vector{_ADAPTER}(\.weight)?", "magnitude"),
    (r"\.dora_scale", "magnitude"),
    (r"\.diff", "diff"),
    (r"\.w_norm", "diff"),
    (r"\.diff_b", "bias"),
    (r"\.b_norm", "bias"),
    (r"\.set_weight", "value"),
    (r"\.reshape_weight", "reshape"),
    (rf"\.oft_R{_ADAPTER}\.weight", "oft_R"),
    (rf"\.ia3_l{_ADAPTER}", "ia3_l"),
    (r"\.on_input", "on_input"),
    (r"\.([ab][12]|bm)\.weight", ""),
    (r"\.(hada_w[12]_[ab]|hada_t[12]|lokr_w[12](_[ab])?|lokr_t2|oft_blocks|oft_diag|rescale|boft_R|boft_s)", ""),
    (rf"\.boft_R{_ADAPTER}", "boft_R"),
    (rf"\.boft_s{_ADAPTER}", "boft_s"),
)
_PATTERNS = tuple((re.compile(rf"{pattern}$"), role) for pattern, role in _ROLES)

# The roles that identify a method, in the order of precedence: any one of them is enough.
_METHODS = (
    ("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")),
    ("LoKr", ("lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a")),
    ("BOFT", ("boft_R",)),
    ("OFT", ("oft_blocks", "oft_R", "oft_diag")),
    ("GLoRA", ("a1", "a2", "b1", "b2")),
    ("IA3", ("ia3_l", "on_input")),
    ("LoRA", ("down", "up")),
    ("weights", ("diff", "value")),
    ("biases", ("bias",)),
)


def split_key(name: str) -> TensorKey | None:
    """Split the name of a LoRA's tensor; return None if it ends in no known role."""
    for pattern, role in _PATTERNS:
        found = pattern.search(name)
        if found:
            ending = found.group()[1:].removesuffix(".weight")
            return TensorKey(stem=name[: found.start()], role=role or ending)
    return None


def method_of(roles: Iterable[str]) -> str | None:
    """Return the method of the tensors of one layer; None if their roles do not identify it."""
    found = set(roles)
    method = next((method for method, signs in _METHODS if found.intersection(signs)), None)
    return "DoRA" if method == "LoRA" and "magnitude" in found else method


def stems(name: str) -> Iterator[str]:
    """Yield the possible layers of a name: without its last word, without its last two, and so on."""
    words = name.split(".")
    for count in range(len(words) - 1, 0, -1):
        yield ".".join(words[:count])


def flat(name: str) -> str:
    """Return a name with dots replaced by underscores."""
    return name.replace(".", "_")
