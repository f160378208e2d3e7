"""Turn the tensors that a LoRA file has for one layer into a change of the layer, for every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from attrs import frozen
from torch import Tensor

from mold_core.errors import CheckpointError
from mold_core.weights.lora_changes import (
    Change,
    Decomposed,
    Dense,
    Gain,
    Hadamard,
    InputLowRank,
    Kronecker,
    LowRank,
    Replacement,
)
from mold_core.weights.lora_keys import method_of
from mold_core.weights.lora_rotations import (
    butterfly_input_rotation,
    butterfly_rotation,
    output_rotation,
    packed_rotation,
)
from mold_core.weights.lora_settings import LoraSettings
from mold_core.weights.packed import PackedTensor

__all__ = ["LayerChange", "LayerShape", "LayerTensors", "layer_change"]

# The roles that each method reads. A layer with any other role is an error.
_ROLES = {
    "LoRA": {"down", "up", "mid", "alpha", "up_bias"},
    "DoRA": {"down", "up", "mid", "alpha", "magnitude"},
    "LoHa": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha", "magnitude"},
    "LoKr": {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "alpha", "magnitude"},
    "BOFT": {"boft_R", "boft_s"},
    "OFT": {"oft_blocks", "oft_R", "rescale", "alpha"},
    "GLoRA": {"a1", "a2", "b1", "b2", "alpha"},
    "IA3": {"ia3_l", "gain", "on_input"},
    "weights": {"diff", "value"},
    "biases": set(),
}
_ANY = {"bias", "reshape"}


@frozen(kw_only=True)
class LayerShape:
    """The shape of the part of a layer that a LoRA changes: `rows`, flattened `columns`, and a convolution's `kernel`.

    `widened`: a LoRA may have additional inputs, which the model receives only with that LoRA.
    """

    rows: int
    columns: int
    kernel: tuple[int, ...] = ()
    widened: bool = False

    @property
    def inputs(self) -> int:
        """Input channels."""
        return self.columns // math.prod(self.kernel)


@frozen(kw_only=True, eq=False)
class LayerChange:
    """A LoRA's change of a layer's weights, and its addition to the bias; a plain `pair` is a LowRank."""

    change: Change | None
    bias: Tensor | None


@frozen(kw_only=True, eq=False)
class LayerTensors:
    """The tensors that a file has for one layer: their names by role, and the file's settings for the layer."""

    stem: str
    names: Mapping[str, str]
    tensors: Mapping[str, Tensor | PackedTensor]
    settings: LoraSettings | None = None

    def __contains__(self, role: str) -> bool:
        return role in self.names

    def array(self, role: str) -> Tensor:
        """Return a tensor in float32."""
        tensor = self.tensors[self.names[role]]
        dense = tensor if isinstance(tensor, Tensor) else tensor.expand()
        if not dense.is_floating_point():
            raise CheckpointError(f"{self.names[role]} has no floating-point dtype")
        return dense.float()

    def matrix(self, role: str, rows: int | None = None, columns: int | None = None) -> Tensor:
        """Return a matrix, flattened if it is stored as a convolution. Raises for any other shape."""
        array = self.array(role)
        flat = array.flatten(1) if array.ndim > 2 else array
        if not flat.ndim:
            raise CheckpointError(f"{self.names[role]} is one number where a matrix is needed")
        required = [flat.shape[0] if rows is None else rows, columns or (flat.shape[1] if flat.ndim == 2 else -1)]
        if flat.ndim != 2 or list(flat.shape) != required or not flat.numel():
            shape = "a matrix" if -1 in required else f"{required}"
            raise CheckpointError(f"{self.names[role]} has the shape {list(array.shape)} where {shape} is needed")
        return flat

    def vector(self, role: str, count: int) -> Tensor:
        """Return `count` numbers of any shape, flattened."""
        array = self.array(role)
        if array.numel() != count:
            raise CheckpointError(f"{self.names[role]} has the shape {list(array.shape)} where [{count}] is needed")
        return array.reshape(-1)

    def number(self, role: str) -> float:
        """Return the number in a tensor of one, of any dtype."""
        tensor = self.tensors[self.names[role]]
        dense = tensor if isinstance(tensor, Tensor) else tensor.expand()
        if dense.numel() != 1 or not math.isfinite(dense.item()):
            raise CheckpointError(f"{self.names[role]} must be one finite number")
        return float(dense.item())

    def scale(self, rank: int) -> float:
        """Return alpha / rank, with the layer's own alpha or else the file's configuration."""
        if "alpha" in self:
            return self.number("alpha") / rank
        return 1.0 if self.settings is None else self.settings.scale(self.stem, rank)

    def required(self, *roles: str) -> None:
        """Raise CheckpointError unless all roles are present."""
        lacking = [role for role in roles if role not in self]
        if lacking:
            first = next(iter(self.names.values()))
            raise CheckpointError(f"{first} has no counterpart: {self.stem} lacks {', '.join(lacking)}")


def layer_change(entries: LayerTensors, shape: LayerShape, weight: Callable[[], Tensor]) -> LayerChange:
    """Return the change of a layer by its tensors. `weight` returns the layer's dense weights [rows, columns], float32.

    Raises CheckpointError naming the tensor for shapes that do not fit and for tensors that mold does not understand.
    """
    method = method_of(entries.names)
    if method is None:
        raise CheckpointError(f"{next(iter(entries.names.values()))} stands alone: {entries.stem} has no other tensors")
    for role, name in entries.names.items():
        if role not in _ROLES[method] | _ANY:
            raise CheckpointError(f"{name} is not understood beside the other tensors of {entries.stem} ({method})")
    build = _BUILDERS.get(method)
    change = build(entries, shape) if build else None
    if change is not None and "magnitude" in entries:
        change = _decomposed(change, entries, shape, weight())
    return LayerChange(change=change, bias=_bias(entries, shape))


def _pair(entries: LayerTensors, shape: LayerShape) -> Change:
    if "down" not in entries or "up" not in entries:
        raise CheckpointError(
            f"{next(iter(entries.names.values()))} has no counterpart: lora_A and lora_B (or lora_down and lora_up)"
            " come in pairs"
        )
    if "mid" in entries:
        return _tucker_pair(entries, shape)
    down = entries.array("down")
    if not down.ndim:
        raise CheckpointError(f"{entries.names['down']} is one number where a matrix is needed")
    inputs = math.prod(down.shape[1:])
    wider = inputs > shape.columns and inputs % shape.columns == 0
    if wider and not (shape.widened and inputs == 2 * shape.columns):
        raise CheckpointError(
            f"{entries.names['down']} has the shape {list(down.shape)} where {[len(down), shape.columns]} is needed",
            hint="a LoRA that widens the inputs of a model, such as one for control images, needs the model that it"
            " was trained for",
        )
    rank = len(down)
    scale = entries.scale(rank) if rank else 1.0
    down, up = entries.matrix("down", rank, inputs if wider else shape.columns), entries.matrix("up", shape.rows, rank)
    return LowRank(down=down, up=up * scale if scale != 1 else up)


def _tucker_pair(entries: LayerTensors, shape: LayerShape) -> Change:
    """Return the change of a convolution in Tucker form: a small kernel between two matrices."""
    down, up = entries.matrix("down", None, shape.inputs), entries.matrix("up", shape.rows)
    mid = entries.array("mid")
    if mid.shape != (up.shape[1], len(down), *shape.kernel):
        raise CheckpointError(f"{entries.names['mid']} has the shape {list(mid.shape)}, which does not fit its pair")
    whole = torch.einsum("ab...,oa,bi->oi...", mid, up, down).flatten(1)
    return Dense(values=whole * entries.scale(len(down)))


def _loha(entries: LayerTensors, shape: LayerShape) -> Change:
    entries.required("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    if "hada_t1" in entries:
        entries.required("hada_t2")
        left, right = (
            _fitting(entries, _tucker(entries, shape, f"hada_t{side}", f"hada_w{side}_a", f"hada_w{side}_b"), shape)
            for side in (1, 2)
        )
        return Dense(values=left * right * entries.scale(len(entries.array("hada_w1_b"))))
    left, right = (entries.matrix(f"hada_w{side}_b", None, shape.columns) for side in (1, 2))
    return Hadamard(
        left_up=entries.matrix("hada_w1_a", shape.rows, len(left)) * entries.scale(len(left)),
        left_down=left,
        right_up=entries.matrix("hada_w2_a", shape.rows, len(right)),
        right_down=right,
    )


def _lokr(entries: LayerTensors, shape: LayerShape) -> Change:
    left, right = _factors(entries, "lokr_w1"), _factors(entries, "lokr_w2")
    rank = next((len(factors[1]) for factors in (left, right) if len(factors) > 1), None)
    if rank is not None:
        scale = entries.scale(rank)
    else:  # if neither matrix is factored, a tensor's alpha is not used, but PEFT's configuration is
        scale = 1.0 if "alpha" in entries or entries.settings is None else entries.settings.scale(entries.stem, 1)
    change = Kronecker(left=(left[0] * scale, *left[1:]), right=right)
    if "lokr_t2" in entries:
        small = _tucker(entries, shape, "lokr_t2", "lokr_w2_a", "lokr_w2_b")
        change = Kronecker(left=change.left, right=(small,))
    rows, columns = change.left[0].shape[0] * change.right[0].shape[0], change.left[-1].shape[1]
    if (rows, columns * change.right[-1].shape[1]) != (shape.rows, shape.columns):
        first = next(iter(entries.names.values()))
        raise CheckpointError(
            f"{first} and its counterpart make a matrix of {rows} x {columns * change.right[-1].shape[1]} where"
            f" {shape.rows} x {shape.columns} is needed"
        )
    return change


def _factors(entries: LayerTensors, role: str) -> tuple[Tensor, ...]:
    if role in entries:
        return (entries.matrix(role),)
    entries.required(f"{role}_a", f"{role}_b")
    down = entries.matrix(f"{role}_b")
    if "lokr_t2" in entries and role == "lokr_w2":
        return entries.matrix(f"{role}_a"), down
    return entries.matrix(f"{role}_a", None, len(down)), down


def _tucker(entries: LayerTensors, shape: LayerShape, core: str, up: str, down: str) -> Tensor:
    """Return a convolution as [rows, columns] from a core [a, b, *kernel] and matrices [a, rows] and [b, inputs]."""
    kernel, first, second = entries.array(core), entries.matrix(up), entries.matrix(down)
    if kernel.shape[:2] != (len(first), len(second)):
        raise CheckpointError(f"{entries.names[core]} has the shape {list(kernel.shape)}, which does not fit {up}")
    if first.shape[1] > shape.rows or second.shape[1] > shape.inputs or kernel.shape[2:] != shape.kernel:
        raise CheckpointError(f"{entries.names[core]} and its matrices make a kernel that does not fit {entries.stem}")
    return torch.einsum("ab...,ao,bi->oi...", kernel, first, second).flatten(1)


def _glora(entries: LayerTensors, shape: LayerShape) -> Change:
    entries.required("a1", "a2", "b1", "b2")
    if math.prod(shape.kernel) > 1:
        raise CheckpointError(f"{entries.names['a1']} is of GLoRA for a convolution, which mold does not compute")
    forth, down = entries.matrix("a2", None, shape.inputs), entries.matrix("b2", None, shape.columns)
    scale = entries.scale(len(down))
    return InputLowRank(
        back=entries.matrix("a1", shape.inputs, len(forth)) * scale,
        forth=forth,
        down=down,
        up=entries.matrix("b1", shape.rows, len(down)) * scale,
    )


def _ia3(entries: LayerTensors, shape: LayerShape) -> Change:
    if "ia3_l" in entries:
        array = entries.array("ia3_l")
        on_inputs = array.ndim > 1 and array.shape[0] == 1 and array.numel() == shape.columns
        excess = entries.vector("ia3_l", shape.columns if on_inputs else shape.rows) - 1
        return Gain(excess=excess, on_inputs=on_inputs, with_bias=not on_inputs)
    entries.required("gain", "on_input")
    on_inputs = bool(entries.number("on_input"))
    return Gain(excess=entries.vector("gain", shape.columns if on_inputs else shape.rows), on_inputs=on_inputs)


def _weights(entries: LayerTensors, shape: LayerShape) -> Change:
    if "value" in entries:
        return Replacement(values=entries.matrix("value", shape.rows, shape.columns))
    return Dense(values=entries.matrix("diff", shape.rows, shape.columns))


def _oft(entries: LayerTensors, shape: LayerShape) -> Change:
    if "oft_R" in entries:
        return packed_rotation(entries.array("oft_R"), entries.names["oft_R"], shape.inputs, entries.settings)
    blocks = entries.array("oft_blocks")
    # The alpha of a rotation is its constraint, by output channel.
    constraint = entries.number("alpha") * shape.rows if "alpha" in entries else 0.0
    rescale = entries.vector("rescale", shape.rows) if "rescale" in entries else None
    build = butterfly_rotation if blocks.ndim == 4 else output_rotation
    return build(blocks, entries.names["oft_blocks"], shape.rows, constraint, rescale)


def _boft(entries: LayerTensors, shape: LayerShape) -> Change:
    rescale = entries.vector("boft_s", shape.rows) if "boft_s" in entries else None
    return butterfly_input_rotation(entries.array("boft_R"), entries.names["boft_R"], shape.inputs, rescale)


def _decomposed(change: Change, entries: LayerTensors, shape: LayerShape, weight: Tensor) -> Change:
    """Return a change with DoRA's magnitudes: of rows, or of columns if the file has one per column."""
    magnitude, name = entries.array("magnitude"), entries.names["magnitude"]
    on_inputs = magnitude.ndim == 2 and magnitude.shape[0] == 1 and magnitude.shape[1] == shape.columns > 1
    if magnitude.numel() != (shape.columns if on_inputs else shape.rows):
        raise CheckpointError(f"{name} has the shape {list(magnitude.shape)}, which fits neither rows nor columns")
    changed = weight + change.difference(weight).to(weight.device)
    norms = changed.norm(dim=0 if on_inputs else 1).clamp(min=torch.finfo(torch.float32).eps)
    return Decomposed(inner=change, excess=magnitude.reshape(-1).to(norms.device) / norms - 1, on_inputs=on_inputs)


def _fitting(entries: LayerTensors, values: Tensor, shape: LayerShape) -> Tensor:
    if tuple(values.shape) != (shape.rows, shape.columns):
        first = next(iter(entries.names.values()))
        raise CheckpointError(f"{first} makes a change of the shape {list(values.shape)}, which does not fit")
    return values


def _bias(entries: LayerTensors, shape: LayerShape) -> Tensor | None:
    biases = list(_biases(entries, shape))
    return sum(biases[1:], biases[0]) if biases else None


def _biases(entries: LayerTensors, shape: LayerShape) -> Iterator[Tensor]:
    if "bias" in entries:
        yield entries.vector("bias", shape.rows)
    if "up_bias" in entries:  # with the scale of its matrix
        yield entries.vector("up_bias", shape.rows) * entries.scale(len(entries.array("down")))


_BUILDERS: dict[str, Callable[[LayerTensors, LayerShape], Change]] = {
    "LoRA": _pair,
    "DoRA": _pair,
    "LoHa": _loha,
    "LoKr": _lokr,
    "BOFT": _boft,
    "OFT": _oft,
    "GLoRA": _glora,
    "IA3": _ia3,
    "weights": _weights,
}
