"""FLUX.1 transformers with random weights of every kind, and the inputs of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mold_core.weights import PackedTensor, load_weights, type_named
from mold_flux.compile import fast_attention
from mold_flux.sampling import denoise, pack
from mold_flux.schedule import DEV
from mold_flux.transformer import FluxConfig, FluxTransformer, rope

__all__ = ["SMALL", "Case", "Inputs", "OnStep", "our_loop", "random_blocks", "random_transformer", "their_loop"]

SMALL = FluxConfig(
    hidden_size=256, heads=2, depth_double=1, depth_single=1, context_dim=256, pooled_dim=256, axes_dim=(16, 56, 56)
)
# Where the fp16 scales of a block stand, in bytes.
_SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
# Dense bf16 operations a second that makers state, by words in the device's name.
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 362e12, "4090": 165e12, "5090": 209e12, "B200": 2250e12}

OnStep = Callable[[], object]


@attrs.frozen(kw_only=True)
class Case:
    """What is drawn, and where."""

    config: FluxConfig
    device: str
    side_px: int
    steps: int
    text_tokens: int = 512
    dtype: torch.dtype = torch.bfloat16

    @property
    def grid(self) -> int:
        return self.side_px // 16

    @property
    def tokens(self) -> int:
        return self.grid**2 + self.text_tokens

    def operations(self) -> float:
        """Return the multiplications and additions of one step's matrix products."""
        config, tokens, image = self.config, self.tokens, self.grid**2
        hidden, mlp = config.hidden_size, config.mlp_size
        double = 2 * tokens * (4 * hidden * hidden + 2 * hidden * mlp)
        single = 2 * tokens * (hidden * (3 * hidden + mlp) + (hidden + mlp) * hidden)
        attention = 4 * tokens * tokens * hidden
        ends = 2 * image * hidden * (config.in_channels + config.out_channels)
        return config.depth_double * (double + attention) + config.depth_single * (single + attention) + ends


def random_transformer(case: Case, kind: str | None, seed: int = 1) -> FluxTransformer:
    """Return a transformer with random weights on its device: plain ones, or its matrices in a quantised type."""
    with torch.device("meta"):
        transformer = FluxTransformer(case.config)
    generator = torch.Generator(case.device).manual_seed(seed)
    tensors: dict[str, Tensor | PackedTensor] = {}
    for name, wanted in transformer.state_dict().items():
        if name.endswith(".scale"):
            tensors[name] = torch.ones(wanted.shape, dtype=case.dtype, device=case.device)
        elif kind is None or wanted.ndim < 2 or wanted.shape[1] % 256:
            spread = 0.5 / wanted.shape[-1] ** 0.5
            tensors[name] = spread * torch.randn(
                wanted.shape, dtype=case.dtype, device=case.device, generator=generator
            )
        else:
            tensors[name] = random_blocks(tuple(wanted.shape), kind, case.device, generator)
    load_weights(transformer, tensors, "random weights", dtype=case.dtype, device=case.device)
    return transformer.eval().requires_grad_(False)


def random_blocks(shape: tuple[int, ...], kind: str, device: str, generator: torch.Generator) -> PackedTensor:
    """Return random blocks of a type that stand for small numbers; INT8 is ConvRot's, rotated in groups of 256."""
    type_ = type_named(kind)
    rows, columns = shape
    if kind.startswith("F8"):
        stored = torch.float8_e4m3fn if kind == "F8_E4M3" else torch.float8_e5m2
        numbers = torch.randn(shape, device=device, generator=generator).to(stored)
        scale = torch.tensor(0.5 / columns**0.5, device=device)
        return PackedTensor(data=numbers.view(torch.uint8), type=type_, shape=shape, scale=scale)
    if kind == "INT8":
        data = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)
        spread = 0.5 / columns**0.5 / 74  # 74: the standard deviation of the numbers
        scale = spread * (0.5 + torch.rand(rows, 1, device=device, generator=generator))
        return PackedTensor(data=data, type=type_, shape=shape, scale=scale, rotation=256)
    blocks = torch.randint(
        0, 256, (rows * columns // type_.block_size, type_.block_bytes), dtype=torch.uint8, device=device,
        generator=generator,
    )  # fmt: skip
    small = torch.tensor([1e-4], dtype=torch.float16, device=device).view(torch.uint8)
    for place in _SCALES[kind]:
        blocks[:, place : place + 2] = small
    return PackedTensor(data=blocks.view(rows, -1), type=type_, shape=shape)


@attrs.frozen(kw_only=True)
class Inputs:
    """A prompt and noise, random."""

    txt: Tensor
    pooled: Tensor
    noise: Tensor

    @classmethod
    def random(cls, case: Case, batch: int = 1, seed: int = 2) -> Inputs:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.randn(shape, generator=generator).to(case.device, dtype)

        return cls(
            txt=draw(batch, case.text_tokens, case.config.context_dim, dtype=case.dtype),
            pooled=draw(batch, case.config.pooled_dim, dtype=case.dtype),
            noise=draw(batch, 16, 2 * case.grid, 2 * case.grid, dtype=torch.float32),
        )

    def one(self, index: int) -> Inputs:
        """Return one of a batch."""
        part = slice(index, index + 1)
        return Inputs(txt=self.txt[part], pooled=self.pooled[part], noise=self.noise[part])


def our_loop(transformer: FluxTransformer, case: Case, inputs: Inputs | None = None) -> Callable[[OnStep], Tensor]:
    """Return a function that makes all steps, calling its argument after each, and returns the latents."""
    given = inputs or Inputs.random(case)

    def run(on_step: OnStep) -> Tensor:
        sigmas = DEV.sigmas(case.steps, case.grid**2)
        with torch.inference_mode(), fast_attention(case.device, "auto"):
            conditioning = transformer.prepare(
                given.txt,
                given.pooled,
                torch.tensor(sigmas[:-1], device=case.device),
                torch.tensor([3.5], device=case.device),
                rope(case.config, case.text_tokens, case.grid, case.grid, case.device),
            )
            return denoise(transformer, pack(given.noise), conditioning, sigmas, on_step=lambda *about: on_step())

    return run


def their_loop(case: Case, compiled: bool, backend: str) -> Callable[[OnStep], object]:
    """Return the same for diffusers' FluxPipeline, bf16, eager or with its blocks compiled."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    config = case.config
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(
            in_channels=config.in_channels,
            num_layers=config.depth_double,
            num_single_layers=config.depth_single,
            attention_head_dim=config.head_dim,
            num_attention_heads=config.heads,
            joint_attention_dim=config.context_dim,
            pooled_projection_dim=config.pooled_dim,
            guidance_embeds=True,
            axes_dims_rope=config.axes_dim,
        )
    transformer = transformer.to(torch.bfloat16).to_empty(device=case.device).eval().requires_grad_(False)
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.5 / parameter.shape[-1] ** 0.5)
    if compiled:
        transformer.compile_repeated_blocks(fullgraph=True, backend=backend)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    inputs = Inputs.random(case)

    def run(on_step: OnStep) -> object:
        def after(pipe: Any, step: int, time: Any, kept: dict[str, Any]) -> dict[str, Any]:
            on_step()
            return kept

        return pipeline(
            prompt_embeds=inputs.txt,
            pooled_prompt_embeds=inputs.pooled,
            latents=pack(inputs.noise).to(torch.bfloat16),
            height=case.side_px,
            width=case.side_px,
            num_inference_steps=case.steps,
            guidance_scale=3.5,
            output_type="latent",
            callback_on_step_end=after,
        )

    return run
