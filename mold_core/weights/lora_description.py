"""Describe a LoRA file by its header: model family, method, rank, alpha, layers, trigger words, licence."""

from __future__ import annotations

import json
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import field, frozen

from mold_core.weights.files import open_weights
from mold_core.weights.lora_keys import flat, method_of, split_key
from mold_core.weights.source import TensorSource

__all__ = ["LoraDescription", "describe_lora"]

_LONGEST_TEXT = 200
_MOST_WORDS = 20
_LARGEST_ALPHA = 1e9
_ALPHAS_READ = 64  # limit of alphas in tensors; every layer has one, nearly always the same

# Families by text that only their layers' names contain, with underscores; the first match counts.
_FAMILIES = (
    ("chroma", r"distilled_guidance_layer"),
    ("flux2", r"double_stream_modulation|single_stream_modulation|to_qkv_mlp_proj|ff_context_linear_in"),
    ("hunyuan-video", r"double_blocks_\d+_img_mlp_fc\d|double_blocks_\d+_img_attn_qkv_proj"),
    ("flux", r"(double|single)_blocks_\d+_|single_transformer_blocks_\d+_"),
    ("sd3", r"joint_blocks_\d+_|transformer_blocks_\d+_ff_context_"),
    ("qwen-image", r"transformer_blocks_\d+_(img|txt)_(mod|mlp)"),
    ("ltx2", r"transformer_blocks_\d+_(audio_|video_to_audio|audio_to_video)|audio_patchify_proj"),
    ("sdxl", r"(^|_)te2_text_model|down_blocks_\d+_attentions_\d+_transformer_blocks_[2-9]|conditioner_embedders"),
    ("sd", r"(down|up)_blocks_\d+_|mid_block_|(input|output|middle)_blocks?_\d+_"),
    ("wan", r"(^|_)blocks_\d+_(self_attn|cross_attn)_"),
    ("z-image", r"(^|_)layers_\d+_(attention|feed_forward)_(to_|w)"),
    ("hidream", r"double_stream_blocks_\d+_block_"),
    ("qwen-image", r"transformer_blocks_\d+_attn_add_[qkv]_proj"),
    ("ltx", r"transformer_blocks_\d+_attn[12]_"),
    ("flux", r"(^|_)(final_layer_(linear|adaLN)|(guidance|vector|time)_in_(in|out)_layer|(img|txt)_in$)"),
)
# FLUX.2 has FLUX.1's names. Its models are wider, and gated MLPs give its single blocks more rows than seven widths.
_FLUX2_WIDTHS = (4096, 6144)
_TEXT_ENCODERS = re.compile(r"(^|_)(text_encoders?|te\d?|clip_[lg]|t5xxl)_|text_model_encoder_layers|SelfAttention")

# Keys of a header for each fact, in the order of precedence.
_TITLE = ("modelspec.title", "ss_output_name", "name")
_AUTHOR = ("modelspec.author",)
_LICENCE = ("modelspec.license", "license", "licence")
_TRAINED_ON = ("modelspec.architecture", "ss_base_model_version", "base_model", "ss_sd_model_name")
_TRIGGERS = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_words", "trigger_word", "trained_words")


@frozen(kw_only=True)
class LoraDescription:
    """The facts in the header of a LoRA file. A text or tuple is empty if the header does not state it.

    `methods` are LoRA, DoRA, LoHa, LoKr, OFT, BOFT, IA3, GLoRA, weights and biases (differences of whole tensors);
    `components` counts layers by network: "transformer" and "text encoder".
    """

    family: str
    methods: tuple[str, ...]
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    layers: int = 0
    components: Mapping[str, int] = field(factory=dict)
    trigger_words: tuple[str, ...] = ()
    licence: str = ""
    title: str = ""
    author: str = ""
    trained_on: str = ""


def describe_lora(path: Path) -> LoraDescription | None:
    """Return the description of a LoRA file by its header; None for a weight file that is not a LoRA.

    Raises CheckpointError for a file that cannot be read. Imports no torch.
    """
    sources = open_weights(path)
    metadata: Mapping[str, object] = getattr(sources, "metadata", {})
    roles: dict[str, dict[str, TensorSource]] = defaultdict(dict)
    for name, source in sources.items():
        key = split_key(name)
        if key is not None:
            roles[key.stem][key.role] = source
    layers = {stem: found for stem, found in roles.items() if method_of(found)}
    if not layers:
        return None
    names = [flat(stem) for stem in layers]
    components = {"text encoder": sum(bool(_TEXT_ENCODERS.search(name)) for name in names)}
    components["transformer"] = len(names) - components["text encoder"]
    return LoraDescription(
        family=_family(names, layers),
        methods=tuple(sorted({str(method_of(found)) for found in layers.values()})),
        ranks=tuple(sorted({rank for found in layers.values() for rank in _ranks(found)})),
        alphas=_alphas(layers.values(), metadata),
        layers=len(layers),
        components={name: count for name, count in components.items() if count},
        trigger_words=_trigger_words(metadata),
        licence=_text(metadata, _LICENCE),
        title=_text(metadata, _TITLE),
        author=_text(metadata, _AUTHOR),
        trained_on=_text(metadata, _TRAINED_ON),
    )


def _family(names: Iterable[str], layers: Mapping[str, Mapping[str, TensorSource]]) -> str:
    whole = "\n".join(names)
    found = next((family for family, pattern in _FAMILIES if re.search(pattern, whole, re.MULTILINE)), "")
    return "flux2" if found == "flux" and any(_is_flux2(stem, roles) for stem, roles in layers.items()) else found


def _is_flux2(stem: str, roles: Mapping[str, TensorSource]) -> bool:
    shapes = [roles[role].shape for role in ("up", "down") if role in roles and roles[role].shape]
    if len(shapes) < 2 or not re.search(r"attn[._](qkv|to_q)$|linear1$", stem):
        return False
    rows, width = shapes[0][0], shapes[1][-1]
    return width in _FLUX2_WIDTHS or (stem.endswith("linear1") and width == 3072 and rows != 7 * width)


def _ranks(roles: Mapping[str, TensorSource]) -> Iterator[int]:
    for role in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b", "b1"):
        if role in roles and roles[role].shape:
            yield roles[role].shape[0]


def _alphas(layers: Iterable[Mapping[str, TensorSource]], metadata: Mapping[str, object]) -> tuple[float, ...]:
    """Return the distinct alphas in tensors, or those in the header if no tensor has one."""
    sources = [roles["alpha"] for roles in layers if "alpha" in roles]
    found = {number for source in sources[:_ALPHAS_READ] if (number := _number(source)) is not None}
    if not found:
        settings = _json(metadata.get("lora_adapter_metadata"))
        found = {
            float(value)
            for key, value in settings.items()
            if key.rpartition(".")[2] == "lora_alpha" and isinstance(value, int | float) and abs(value) < _LARGEST_ALPHA
        }
    if not found:
        with suppress(ValueError):
            found = {float(str(metadata.get("ss_network_alpha", "")))}
    return tuple(sorted(found))


def _number(source: TensorSource) -> float | None:
    """Return the number in a tensor of one, read without torch; None for uncommon or quantised types."""
    formats = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i"}
    if source.size_bytes != source.type.block_bytes:
        return None
    with source.buffer.path.open("rb") as file:
        file.seek(source.offset)
        data = file.read(source.size_bytes)
    if source.type.name == "BF16":
        data, code = b"\0\0" + data, "<f"
    elif source.type.name in formats:
        code = formats[source.type.name]
    else:
        return None
    return float(struct.unpack(code, data)[0]) if len(data) == struct.calcsize(code) else None


def _trigger_words(metadata: Mapping[str, object]) -> tuple[str, ...]:
    """Return the words in the header, else those in the folder names of kohya's training images."""
    found = next((str(metadata[key]) for key in _TRIGGERS if metadata.get(key)), "")
    if found:
        listed = _list(found)
        words: Iterable[str] = listed or (word.strip() for word in found.split(","))
    else:
        folders = _json(metadata.get("ss_dataset_dirs")) or _json(metadata.get("ss_tag_frequency"))
        numbered = (re.fullmatch(r"\d+_(.+)", folder) for folder in folders)
        words = (match[1].strip() for match in numbered if match)
    return tuple(dict.fromkeys(_cleaned(word) for word in words if word))[:_MOST_WORDS]


def _text(metadata: Mapping[str, object], keys: Iterable[str]) -> str:
    return next((_cleaned(str(metadata[key])) for key in keys if metadata.get(key)), "")


def _cleaned(text: str) -> str:
    """Return an untrusted text as one printable line of bounded length."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * _LONGEST_TEXT]).strip()
    return line if len(line) <= _LONGEST_TEXT else f"{line[: _LONGEST_TEXT - 1]}…"


def _json(value: object) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        found = json.loads(str(value))
        if isinstance(found, dict):
            return found
    return {}


def _list(text: str) -> list[str]:
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, list):
            return [str(word) for word in found]
    return []
