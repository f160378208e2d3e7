"""Weight files of every layout come out under the official names, with the sizes they tell; others are refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mold_core import CheckpointError
from mold_flux.autoencoder import FLUX_AE, Autoencoder, AutoencoderConfig
from mold_flux.checkpoints import (
    autoencoder_config,
    autoencoder_tensors,
    clip_config,
    clip_tensors,
    load_weights,
    t5_config,
    t5_tensors,
    transformer_config,
    transformer_tensors,
)
from mold_flux.text_encoders import CLIP_L, T5_XXL, ClipConfig, ClipTextEncoder, T5Config, T5Encoder
from mold_flux.transformer import FLUX_DEV, FLUX_SCHNELL, FluxConfig, FluxTransformer

SMALL = FluxConfig(
    in_channels=8, out_channels=6, hidden_size=32, heads=2, depth_double=1, depth_single=2, context_dim=12,
    pooled_dim=10, axes_dim=(4, 6, 6), guidance_embed=True, mlp_ratio=3.0,
)  # fmt: skip
CLIP = ClipConfig(hidden_size=16, mlp_size=24, heads=2, depth=2, vocabulary=30, positions=9, eos_id=29)
T5 = T5Config(hidden_size=16, mlp_size=24, heads=3, head_dim=4, depth=2, vocabulary=30, buckets=16)
AE = AutoencoderConfig(block_channels=(4, 8), layers_per_block=1, latent_channels=3, groups=2)


def shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def on_meta(network: type, config: object) -> dict[str, Tensor]:
    with torch.device("meta"):
        return network(config).state_dict()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_the_official_transformer_layout_is_known_under_each_prefix(prefix: str) -> None:
    official = FluxTransformer(SMALL).state_dict()
    assert same(transformer_tensors({prefix + name: tensor for name, tensor in official.items()}), official)


def test_each_part_of_an_all_in_one_file_finds_its_own_tensors() -> None:
    parts = {
        "model.diffusion_model.": FluxTransformer(SMALL).state_dict(),
        "vae.": Autoencoder(AE).state_dict(),
        "text_encoders.clip_l.transformer.": ClipTextEncoder(CLIP).state_dict(),
        "text_encoders.t5xxl.transformer.": T5Encoder(T5).state_dict(),
    }
    file = {prefix + name: tensor for prefix, tensors in parts.items() for name, tensor in tensors.items()}
    readers = (transformer_tensors, autoencoder_tensors, clip_tensors, t5_tensors)
    for read, wanted in zip(readers, parts.values(), strict=True):
        assert same(read(file), wanted)


def test_an_incomplete_diffusers_layout_names_the_tensor_that_lacks_a_part() -> None:
    file = {
        "transformer_blocks.0.attn.to_q.weight": torch.zeros(32, 32),
        "transformer_blocks.0.attn.to_v.weight": torch.zeros(32, 32),
    }
    with pytest.raises(CheckpointError, match=r"double_blocks\.0\.img_attn\.qkv\.weight lacks 1 of its 3 parts"):
        transformer_tensors(file)


def test_an_unknown_tensor_of_a_diffusers_layout_is_not_dropped() -> None:
    tensors = transformer_tensors(
        {"transformer_blocks.0.attn.to_add_out.weight": torch.zeros(2), "new.bias": torch.zeros(2)}
    )
    assert set(tensors) == {"double_blocks.0.txt_attn.proj.weight", "new.bias"}


def test_both_autoencoder_layouts_are_known() -> None:
    theirs = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=(4, 8),
        latent_channels=3,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).state_dict()
    converted = autoencoder_tensors(theirs)
    assert shapes(converted) == shapes(Autoencoder(AE).state_dict())
    assert same(autoencoder_tensors(converted), converted)


def test_clip_names_do_with_and_without_their_prefix_and_without_the_image_half() -> None:
    official = ClipTextEncoder(CLIP).state_dict()
    bare = {name.removeprefix("text_model."): tensor for name, tensor in official.items()}
    whole = official | {
        "text_model.embeddings.position_ids": torch.arange(9),
        "vision_model.post_layernorm.weight": torch.ones(2),
        "text_projection.weight": torch.ones(2, 2),
        "logit_scale": torch.ones(()),
    }
    assert same(clip_tensors(bare), official)
    assert same(clip_tensors(whole), official)


def test_t5_takes_its_embedding_under_either_name_and_no_decoder() -> None:
    official = T5Encoder(T5).state_dict()
    twin = {("encoder.embed_tokens.weight" if name == "shared.weight" else name): t for name, t in official.items()}
    whole = official | twin | {"decoder.final_layer_norm.weight": torch.ones(2), "lm_head.weight": torch.ones(2, 2)}
    assert same(t5_tensors(twin), official)
    assert same(t5_tensors(whole), official)


def test_the_sizes_of_the_published_models_are_read_off_their_weights() -> None:
    assert transformer_config(shapes(on_meta(FluxTransformer, FLUX_DEV))) == FLUX_DEV
    assert transformer_config(shapes(on_meta(FluxTransformer, FLUX_SCHNELL))) == FLUX_SCHNELL
    assert autoencoder_config(shapes(on_meta(Autoencoder, FLUX_AE))) == FLUX_AE
    assert clip_config(shapes(on_meta(ClipTextEncoder, CLIP_L))) == CLIP_L
    assert t5_config(shapes(on_meta(T5Encoder, T5_XXL))) == T5_XXL


def test_the_sizes_of_small_models_are_read_given_what_weights_do_not_tell() -> None:
    assert transformer_config(shapes(on_meta(FluxTransformer, SMALL)), axes_dim=(4, 6, 6)) == SMALL
    assert autoencoder_config(shapes(on_meta(Autoencoder, AE)), groups=2) == AE
    assert clip_config(shapes(on_meta(ClipTextEncoder, CLIP)), heads=2) == CLIP
    assert t5_config(shapes(on_meta(T5Encoder, T5))) == T5


def test_unusual_heads_need_their_axes_said() -> None:
    with pytest.raises(CheckpointError, match=r"heads have 16 channels.*say it as axes_dim"):
        transformer_config(shapes(on_meta(FluxTransformer, SMALL)))


def test_a_header_without_a_tensor_that_tells_a_size_is_refused_by_its_name() -> None:
    known = shapes(on_meta(FluxTransformer, SMALL))
    del known["vector_in.in_layer.weight"]
    with pytest.raises(CheckpointError, match=r"lacks vector_in\.in_layer\.weight"):
        transformer_config(known, axes_dim=(4, 6, 6))


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (transformer_tensors, "FLUX.1 transformer"),
        (autoencoder_tensors, "FLUX.1 autoencoder"),
        (clip_tensors, "CLIP text encoder"),
        (t5_tensors, "T5 encoder"),
    ],
)
def test_files_of_something_else_are_refused(read: object, kind: str) -> None:
    with pytest.raises(CheckpointError, match=f"this is no {kind}: .* among conv_first.weight"):
        read({"conv_first.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="of which there are none"):
        read({})


def test_filling_uses_the_tensors_themselves() -> None:
    tensors = FluxTransformer(SMALL).bfloat16().state_dict()
    with torch.device("meta"):
        module = FluxTransformer(SMALL)
    load_weights(module, tensors, "x.safetensors")
    assert module.img_in.weight.data_ptr() == tensors["img_in.weight"].data_ptr()
    assert module.img_in.weight.dtype == torch.bfloat16


def test_filling_says_what_is_lacking_left_over_or_of_the_wrong_shape() -> None:
    tensors = FluxTransformer(SMALL).state_dict()
    del tensors["img_in.weight"]
    tensors["img_in.weight_scale"] = torch.ones(1)
    tensors["txt_in.bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as caught:
        load_weights(FluxTransformer(SMALL), tensors, "x.safetensors")
    assert str(caught.value) == (
        "x.safetensors does not match the model: it lacks img_in.weight; it has img_in.weight_scale, which the model"
        " does not; it has txt_in.bias of shape [5] where [32] is needed"
    )


def test_only_the_first_problems_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"it lacks img_in\.weight; .* and \d+ more$"):
        load_weights(FluxTransformer(SMALL), {}, "x.safetensors")
