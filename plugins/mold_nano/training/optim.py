"""Muon and AdamW over bf16 weights with fp32 masters, averaged over the training processes.

Muon (Keller Jordan, 2024, kellerjordan.github.io/posts/muon) moves matrices, AdamW all other parameters. The weights
the network computes with are bf16; masters, momenta and the moving average (EMA) are fp32.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def join_processes() -> tuple[int, int]:
    """Joins the training processes named by torchrun-like variables and returns this one's rank and their number."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return int(os.environ.get("RANK", "0")), world


def average(values: Tensor) -> Tensor:
    """Averages a tensor over the training processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def orthogonalised(matrices: Tensor) -> Tensor:
    """Returns the nearest orthogonal matrices (B, M, N), M <= N, by five Newton-Schulz steps in bf16."""
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


class Group:
    """A run of parameters in flat fp32 buffers: masters, gradients, moving average."""

    def __init__(self, parameters: list[tuple[str, nn.Parameter]]) -> None:
        self.names = [name for name, _ in parameters]
        self.parameters = [parameter for _, parameter in parameters]
        self.sizes = [parameter.numel() for parameter in self.parameters]
        flat = [parameter.detach().float().flatten() for parameter in self.parameters]
        self.master = torch.cat(flat) if flat else torch.zeros(0)
        self.ema = self.master.clone()
        self.state = [torch.zeros_like(self.master), torch.zeros_like(self.master)]

    def sized(self) -> list[tuple[str, int]]:
        """Returns each parameter's name and number of elements."""
        return list(zip(self.names, self.sizes, strict=True))

    def gradient(self) -> Tensor:
        parts = [
            torch.zeros(parameter.numel(), dtype=parameter.dtype)
            if parameter.grad is None
            else parameter.grad.flatten()
            for parameter in self.parameters
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def views(self, flat: Tensor) -> list[Tensor]:
        return [part.view(p.shape) for part, p in zip(flat.split(self.sizes), self.parameters, strict=True)]

    @torch.no_grad()
    def publish(self) -> None:
        """Copies the masters into the weights the network computes with."""
        for parameter, value in zip(self.parameters, self.views(self.master), strict=True):
            parameter.copy_(value)


class Optimiser:
    """Steps a network's parameters from their gradients; identical on every process."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        is_matrix: Callable[[str, Tensor], bool],
        rank: int,
        world: int,
        muon_lr: float,
        adam_lr: float,
        ema_decay: float,
        speed: Callable[[str], float] | None = None,
    ) -> None:
        """`speed` gives the factor of AdamW's learning rate for a parameter by its name."""
        parameters = list(parameters)
        self.matrices = Group([item for item in parameters if is_matrix(*item)])
        self.vectors = Group([item for item in parameters if not is_matrix(*item)])
        self.rank, self.world = rank, world
        self.muon_lr, self.adam_lr, self.ema_decay = muon_lr, adam_lr, ema_decay
        self.step_count = 0
        speeds = [torch.full((size,), 1.0 if speed is None else speed(name)) for name, size in self.vectors.sized()]
        self.speeds = torch.cat(speeds)
        self.batches = self.same_shapes()

    def same_shapes(self) -> list[list[tuple[int, int, int]]]:
        """Groups the matrices' pieces (index, first row, rows) that are orthogonalised in one batch.

        A fused matrix such as qkv is several matrices one above the other: each square piece is orthogonalised alone.
        """
        shapes: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for index, parameter in enumerate(self.matrices.parameters):
            rows, width = parameter.shape[0], parameter[0].numel()
            piece = width if rows > width and rows % width == 0 else rows
            for first in range(0, rows, piece):
                shapes.setdefault((piece, width), []).append((index, first, piece))
        return list(shapes.values())

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """Applies the gradients with learning rates times `factor` and returns the gradients' norm."""
        self.step_count += 1
        # PERF: bf16 halves what the processes exchange; the gradients were computed in it.
        gradient = average(torch.cat([self.matrices.gradient(), self.vectors.gradient()])).float()
        norm = float(gradient.norm())
        if norm != norm:
            return norm
        gradient *= min(1.0, 1.0 / (norm + 1e-6))
        split = self.matrices.master.numel()
        if split:
            self.step_matrices(gradient[:split], self.muon_lr * factor)
        self.step_vectors(gradient[split:], self.adam_lr * factor)
        decay = min(self.ema_decay, (1 + self.step_count) / (10 + self.step_count))
        for group in (self.matrices, self.vectors):
            group.ema.lerp_(group.master, 1 - decay)
            group.publish()
        return norm

    def step_matrices(self, gradient: Tensor, lr: float) -> None:
        momentum = self.matrices.state[0]
        momentum.mul_(0.95).add_(gradient)
        directions = self.matrices.views(gradient.add(momentum, alpha=0.95))
        update = torch.zeros_like(gradient, dtype=torch.bfloat16)
        updates = self.matrices.views(update)
        for batch in self.batches:
            own = batch[self.rank :: self.world]
            if not own:
                continue
            stack = torch.stack([directions[i].flatten(1)[first : first + rows] for i, first, rows in own])
            tall = stack.shape[1] > stack.shape[2]
            moved = orthogonalised(stack.transpose(1, 2) if tall else stack)
            moved = moved.transpose(1, 2) if tall else moved
            moved = moved * max(1.0, stack.shape[1] / stack.shape[2]) ** 0.5
            for (i, first, rows), value in zip(own, moved, strict=True):
                updates[i].flatten(1)[first : first + rows] = value
        if self.world > 1:
            dist.all_reduce(update)
        self.matrices.master.mul_(1 - lr * 0.01).sub_(update, alpha=lr)

    def step_vectors(self, gradient: Tensor, lr: float) -> None:
        first, second = self.vectors.state
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.02)
        t = self.step_count
        update = (first / (1 - 0.9**t)) / ((second / (1 - 0.98**t)).sqrt() + 1e-8)
        self.vectors.master.sub_(update.mul_(self.speeds), alpha=lr)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step_count": self.step_count,
            **{
                key: [getattr(group, attribute) for group in (self.matrices, self.vectors)]
                for key, attribute in (("master", "master"), ("ema", "ema"), ("state", "state"))
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step_count = state["step_count"]
        for i, group in enumerate((self.matrices, self.vectors)):
            group.master, group.ema, group.state = state["master"][i], state["ema"][i], state["state"][i]
            group.publish()

    def averaged(self) -> dict[str, Tensor]:
        """Returns the moving averages of all parameters by name."""
        values = {}
        for group in (self.matrices, self.vectors):
            values |= dict(zip(group.names, group.views(group.ema.clone()), strict=True))
        return values


def save(path: os.PathLike[str], value: Any) -> None:
    """Writes a checkpoint whole or not at all."""
    temporary = f"{os.fspath(path)}.part"
    torch.save(value, temporary)
    os.replace(temporary, path)


def schedule(elapsed_s: float, total_s: float, steps: int, *, warmup_steps: int, decay: float) -> float:
    """Returns the learning rate's factor: a short warm-up, a plateau, and a linear fall over the last `decay`."""
    left = max(0.0, 1 - elapsed_s / total_s)
    return min(1.0, (steps + 1) / warmup_steps, max(left / max(decay, 1e-6), 0.005))
