"""The main program of the process that converts a pickle file to safetensors.

Arguments are the paths of both files. The result is JSON on standard output: {"tensors", "skipped"} or {"error"}.
torch's weights-only unpickler builds tensors and containers; anything else in a file is refused and never called.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mold_core.sandbox import limit_memory, limit_processor_time, limit_written_bytes

__all__ = ["convert", "main"]

_SPARE_BYTES = 512 << 20
_MAX_TENSORS = 200_000
_MAX_DEPTH = 8
_MIN_SECONDS = 60
_BYTES_PER_SECOND = 20 << 20
# Keys under which trainers store the weights of a network, best first: averaged weights precede others.
_WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net_g", "net")


class _RefusedError(Exception):
    """The file is not converted; the message is shown to the user."""


def main() -> None:
    """Convert the file named by the arguments."""
    source, target = (Path(argument) for argument in sys.argv[1:3])
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the result
    import safetensors.torch  # noqa: F401

    size_bytes = source.stat().st_size
    limit_memory(3 * size_bytes + _SPARE_BYTES)
    limit_processor_time(_MIN_SECONDS + size_bytes / _BYTES_PER_SECOND)
    limit_written_bytes(2 * size_bytes + _SPARE_BYTES)
    stdout.write(json.dumps(convert(source, target)))
    stdout.close()


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Write the tensors of one file to the other and return their number, or the error. It sets no limits."""
    try:
        return _converted(source, target, source.stat().st_size)
    except _RefusedError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "it takes far more memory than its size"}
    except Exception as error:  # readers raise almost any exception for malicious bytes
        return {"error": _reason(error)}


def _converted(source: Path, target: Path, size_bytes: int) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    content = torch.load(source, map_location="cpu", weights_only=True)
    tensors, skipped = {}, 0
    total_bytes = 0
    for name, value in _entries(_network(content)):
        if not isinstance(value, torch.Tensor):
            skipped += 1
            continue
        if value.layout != torch.strided or value.is_quantized:
            raise _RefusedError(f"{name[:80]} is a sparse or quantised tensor")
        total_bytes += value.numel() * value.element_size()
        if total_bytes > 2 * size_bytes + _SPARE_BYTES:
            raise _RefusedError("its tensors are far larger than the file")
        if name in tensors:
            raise _RefusedError(f"it has two tensors of the name {name[:80]}")
        tensors[name] = value
        if len(tensors) > _MAX_TENSORS:
            raise _RefusedError(f"it has more than {_MAX_TENSORS} tensors")
    if not tensors:
        raise _RefusedError("it has no tensors")
    # safetensors requires separate storage for each tensor.
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, target)
    return {"tensors": len(tensors), "skipped": skipped}


def _network(content: object) -> object:
    """Return the weights of the network from a training checkpoint, which may contain optimizer state and more."""
    for _ in range(2):
        if not isinstance(content, Mapping):
            break
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if not inner:
            break
        content = inner
    return content


def _entries(content: object, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield names and values; nested dictionaries have dotted names."""
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
        raise _RefusedError("it does not hold tensors by name")
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}", value


def _reason(error: Exception) -> str:
    found = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|GLOBAL) ([\w.]+)", str(error))
    if found:
        return f"it refers to {found[1]}, which is neither a tensor nor a container; nothing of it was run"
    if "can't allocate memory" in str(error) or "not enough memory" in str(error):
        return "it takes far more memory than its size"
    return "it is damaged, or no file of torch.save with tensors only; nothing of it was run"


if __name__ == "__main__":
    main()
