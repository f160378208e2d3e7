"""The FLUX.1 transformer computes what diffusers' computes, in training and in steps."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from mold_flux.checkpoints import load_weights, transformer_config, transformer_tensors
from mold_flux.transformer import FLUX_DEV, FLUX_SCHNELL, FluxConfig, FluxTransformer, rope

TEXT, ROWS, COLUMNS = 7, 3, 5
AXES = (8, 4, 4)


def reference(*, guidance: bool) -> FluxTransformer2DModel:
    torch.manual_seed(1)
    model = FluxTransformer2DModel(
        in_channels=12,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=20,
        pooled_projection_dim=10,
        guidance_embeds=guidance,
        axes_dims_rope=AXES,
    )
    for name, parameter in model.named_parameters():
        if "attn.norm" in name:
            nn.init.normal_(parameter, 1.0, 0.3)
    return model


def ours(model: FluxTransformer2DModel) -> FluxTransformer:
    tensors = transformer_tensors(model.state_dict())
    transformer = FluxTransformer(transformer_config({n: t.shape for n, t in tensors.items()}, axes_dim=AXES))
    load_weights(transformer, tensors, "the test's transformer")
    return transformer


def batch(size: int, *, guidance: bool) -> dict[str, Tensor | None]:
    torch.manual_seed(2)
    return {
        "img": torch.randn(size, ROWS * COLUMNS, 12),
        "txt": torch.randn(size, TEXT, 20),
        "pooled": torch.randn(size, 10),
        "timestep": torch.linspace(1.0, 0.1, size),
        "guidance": torch.linspace(3.5, 1.0, size) if guidance else None,
    }


def reference_output(model: FluxTransformer2DModel, inputs: dict[str, Tensor | None]) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    return model(
        hidden_states=inputs["img"],
        encoder_hidden_states=inputs["txt"],
        pooled_projections=inputs["pooled"],
        timestep=inputs["timestep"],
        guidance=inputs["guidance"],
        img_ids=torch.stack([torch.zeros(ROWS, COLUMNS), rows, columns], -1).flatten(0, 1),
        txt_ids=torch.zeros(TEXT, 3),
        return_dict=False,
    )[0]


def table(transformer: FluxTransformer) -> Tensor:
    return rope(transformer.config, TEXT, ROWS, COLUMNS)


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
@torch.no_grad()
def test_velocity_equals_that_of_diffusers(guidance: bool) -> None:
    model = reference(guidance=guidance)
    transformer, inputs = ours(model), batch(3, guidance=guidance)
    expected = reference_output(model, inputs)
    torch.testing.assert_close(transformer(**inputs, rope=table(transformer)), expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_diffusers() -> None:
    model = reference(guidance=True)
    transformer, inputs = ours(model), batch(2, guidance=True)
    fused = transformer.get_parameter("double_blocks.1.txt_attn.qkv.weight").requires_grad_()
    transformer(**inputs, rope=table(transformer)).square().sum().backward()
    reference_output(model, inputs).square().sum().backward()
    attention = model.transformer_blocks[1].attn
    separate = [getattr(attention, f"add_{part}_proj").weight.grad for part in "qkv"]
    torch.testing.assert_close(fused.grad, torch.cat(separate), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_prepared_steps_equal_the_plain_forward() -> None:
    transformer, inputs = ours(reference(guidance=True)), batch(2, guidance=True)
    timesteps = torch.tensor([1.0, 0.75, 0.2])
    conditioning = transformer.prepare(
        inputs["txt"], inputs["pooled"], timesteps, inputs["guidance"], table(transformer)
    )
    for index, timestep in enumerate(timesteps):
        expected = transformer(**{**inputs, "timestep": timestep.expand(2)}, rope=table(transformer))
        torch.testing.assert_close(transformer.step(inputs["img"], conditioning, index), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_batch_equals_each_of_its_samples_alone() -> None:
    transformer, inputs = ours(reference(guidance=True)), batch(3, guidance=True)
    together = transformer(**inputs, rope=table(transformer))
    for index in range(3):
        alone = {name: value[index : index + 1] for name, value in inputs.items()}
        expected = transformer(**alone, rope=table(transformer))
        torch.testing.assert_close(together[index : index + 1], expected, atol=2e-6, rtol=0)


@torch.no_grad()
def test_bf16_is_fp32_to_within_its_precision() -> None:
    transformer, inputs = ours(reference(guidance=True)), batch(2, guidance=True)
    expected = transformer(**inputs, rope=table(transformer))
    half = {name: value.bfloat16() if name in ("img", "txt", "pooled") else value for name, value in inputs.items()}
    velocity = transformer.bfloat16()(**half, rope=table(transformer))
    assert velocity.dtype == torch.bfloat16
    assert (velocity - expected).abs().max() < 0.03 * expected.std()


@torch.no_grad()
def test_every_linear_can_be_replaced_by_a_layer_without_weight() -> None:
    class Packed(nn.Module):
        def __init__(self, dense: nn.Linear) -> None:
            super().__init__()
            self.expand = lambda: (dense.weight, dense.bias)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, *self.expand())

    transformer, inputs = ours(reference(guidance=True)), batch(2, guidance=True)
    expected = transformer(**inputs, rope=table(transformer))
    for name, module in list(transformer.named_modules()):
        if isinstance(module, nn.Linear):
            transformer.set_submodule(name, Packed(module))
    torch.testing.assert_close(transformer(**inputs, rope=table(transformer)), expected, atol=0, rtol=0)


def test_a_rope_table_from_inference_mode_serves_in_training() -> None:
    transformer, inputs = ours(reference(guidance=False)), batch(1, guidance=False)
    with torch.inference_mode():
        turned = rope(transformer.config, TEXT, ROWS, COLUMNS)
    transformer.requires_grad_()
    transformer(**inputs, rope=turned).sum().backward()
    assert transformer.img_in.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("needs", [True, False])
def test_guidance_is_refused_where_the_model_has_none_and_missed_where_it_does(needs: bool) -> None:
    transformer, inputs = ours(reference(guidance=needs)), batch(1, guidance=not needs)
    with pytest.raises(ValueError, match="needs guidance" if needs else "takes no guidance"):
        transformer(**inputs, rope=table(transformer))


def test_axes_that_do_not_fill_a_head_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rope axes \(8, 8\) must be even and add up"):
        FluxConfig(hidden_size=64, heads=2, axes_dim=(8, 8))


@pytest.mark.parametrize(
    ("config", "parameters"), [(FLUX_DEV, 11_901_408_320), (FLUX_SCHNELL, 11_891_178_560)], ids=["dev", "schnell"]
)
def test_the_published_sizes_make_the_published_number_of_parameters(config: FluxConfig, parameters: int) -> None:
    with torch.device("meta"):
        transformer = FluxTransformer(config)
    assert sum(parameter.numel() for parameter in transformer.parameters()) == parameters
