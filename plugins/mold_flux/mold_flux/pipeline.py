"""A loaded FLUX.1 model: requests in, images out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from attrs import evolve, frozen
from PIL import Image
from torch import Tensor

from mold_core import (
    CacheHit,
    Frames,
    GenerateRequest,
    Info,
    LoraWeight,
    Run,
)
from mold_core.families import (
    ComponentPipeline,
    StepReporter,
    compute_threads,
    required,
    stage,
)
from mold_core.weights import LoadedComponents, check_finite
from mold_flux.autoencoder import AutoencoderConfig
from mold_flux.compile import fast_attention, problem_of
from mold_flux.decoding import VaeMemory, decoded, encoded
from mold_flux.editing import check_control, check_inpainting, inpainting_channels, masked_pixels, reference_pixels
from mold_flux.image_to_image import SourceEncoder, kept_region, with_kept_pixels
from mold_flux.lora_names import FluxNames, takes_control_image
from mold_flux.native_resolution import NativeSize
from mold_flux.preview import Previews
from mold_flux.prompts import PromptEncoder, Use
from mold_flux.sampling import denoise, initial_noise, noised, pack, unpack
from mold_flux.schedule import Schedule, first_step
from mold_flux.step_cache import first_block_cache
from mold_flux.thread_parallel import can_share, shares, thread_parallel
from mold_flux.transformer import Conditioning, FluxTransformer, rope
from mold_flux.variants import Variant

__all__ = ["FluxPipeline"]

# Pixels of the image per token of the transformer, along each side: 8 in the autoencoder, 2 in packing.
_PACKING = 2

# Multiply-adds of one step that keep a thread busy, about one per weight and token: measured with flux-nano.
_WORK_PER_THREAD = 400_000_000


class FluxPipeline(ComponentPipeline):
    """Images from text, or from text and an image, with FLUX.1.

    `device` is where it denoises. Caches prompts, source images and LoRAs by their content; keeps nothing else of a
    request.
    """

    def __init__(
        self,
        components: LoadedComponents,
        *,
        autoencoder_config: AutoencoderConfig,
        prompts: PromptEncoder,
        schedule: Schedule,
        device: str,
        budget_device: str,
        threads: int | None,
        dtypes: Mapping[str, torch.dtype],
        attention: str = "auto",
        native: NativeSize | None = None,
        variant: Variant = "plain",
        reference_px: int = 1024 * 1024,
    ) -> None:
        """`dtypes` is what each component computes in, `reference_px` the area of the images that Kontext edits."""
        super().__init__(components, budget_device=budget_device, lora_names=FluxNames())
        self.autoencoder_config = autoencoder_config
        self.prompts = prompts
        self.schedule = schedule
        self._device = device
        self._threads = threads
        self._attention = attention
        self._native = native
        self._variant = variant
        self._reference_px = reference_px
        self._sources = SourceEncoder()
        self._references = SourceEncoder()
        self._dtypes = dtypes
        self._weights = components.plan.component("transformer").size_bytes // dtypes["transformer"].itemsize

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        """Return one image per request; all have one `batch_key`."""
        variant = self._variant_of(requests[0])
        if variant == "fill":
            check_inpainting(requests)
        if variant == "control":
            check_control(requests)
        if self._variant == "kontext" and len(requests) > 1:  # images to edit may have different shapes
            return [frames for request in requests for frames in self._frames([request], run)]
        return self._frames(requests, run)

    def _frames(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        native = self._native
        generated = self._generate(
            requests if native is None else [native.at_native_size(request) for request in requests], run
        )
        if native is not None:
            generated = [
                native.at_requested_size(image, request) for image, request in zip(generated, requests, strict=True)
            ]
        return [
            Frames(images=(with_kept_pixels(image, request),))
            for image, request in zip(generated, requests, strict=True)
        ]

    def _generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Image.Image]:
        threads = self._threads or torch.get_num_threads()
        small = _useful_threads(math.prod(self._token_grid(requests[0])) * self._weights, threads) == 1
        shares_of_batch = shares(len(requests), threads if small and self._device == "cpu" else 1)
        attention, vae = fast_attention(self._device, self._attention), self._vae_memory()
        with torch.inference_mode(), compute_threads(1 if small else threads), attention:
            latents = self._latents(requests, shares_of_batch, run)
            with stage(run, "Decoding"), self.network("vae", run) as autoencoder:
                images = thread_parallel(
                    lambda share, _check: decoded(autoencoder, latents[share], vae, run.report),
                    shares_of_batch if can_share(autoencoder) else [slice(None)],
                )
                return [image for some in images for image in some]

    def _vae_memory(self) -> VaeMemory:
        plan = self.components.plan
        component = plan.component("vae")
        available = plan.available_bytes.get(component.device)
        return VaeMemory(device=component.device, available_bytes=available, weight_bytes=component.size_bytes)

    def _token_grid(self, request: GenerateRequest) -> tuple[int, int]:
        side = self.autoencoder_config.factor * _PACKING
        return required(request.height) // side, required(request.width) // side

    def _latents(self, requests: Sequence[GenerateRequest], shares_of_batch: Sequence[slice], run: Run) -> Tensor:
        """Return the finished latents [B, C, h, w] of requests that have one `batch_key`.

        The shares are computed in parallel if the transformer allows it.
        """
        first = requests[0]
        rows, columns = self._token_grid(first)
        shape = (self.autoencoder_config.latent_channels, rows * _PACKING, columns * _PACKING)
        noise = torch.cat([initial_noise(required(request.seed), *shape) for request in requests])
        variant = self._variant_of(first)
        widened = variant in ("fill", "control")
        inputs = self._inputs(requests, run)
        images = torch.zeros_like(noise) if widened else self._source_latents(requests, noise, run)
        begin = first_step(first) if variant == "plain" else 0
        sigmas = self.schedule.sigmas(required(first.steps), rows * columns)[begin:]
        if len(sigmas) == 1:  # strength 0 makes no step
            return images.to(self._device)
        start = noise if begin == 0 else noised(images, noise, sigmas[0])
        keeping = None if widened else kept_region(requests, images, noise, self._device)
        txt, pooled = self._encode(requests, run)
        with self._use(first.loras or (), run)("transformer") as transformer:
            tokens = pack(start).to(self._device)
            conditioning = self._conditioning(transformer, requests, txt, pooled, sigmas, (rows, columns), inputs)
            steps, previews = (
                StepReporter(run, len(sigmas) - 1, self._device),
                self._previews(requests, (rows, columns), run),
            )
            # Previews use the autoencoder, which one thread at a time may do.
            whole_batch = previews is not None or not can_share(transformer)

            def on_step(step: int, total: int, latents: Tensor, share: slice, check: Callable[[], None]) -> None:
                if step in (1, total):
                    check_finite("transformer", latents, network=transformer, when=f"in step {step} of {total}")
                if share.start in (0, None):
                    steps.advance()
                else:
                    check()

            def denoised(share: slice, check: Callable[[], None]) -> Tensor:
                return denoise(
                    transformer,
                    tokens[share],
                    conditioning.select(share),
                    sigmas,
                    on_step=partial(on_step, share=share, check=check),
                    blend=keeping.select(share).blend if keeping else None,
                    on_estimate=previews,
                    cache=cache,
                )

            cache = first_block_cache(first)
            packed = torch.cat(thread_parallel(denoised, [slice(None)] if whole_batch else shares_of_batch))
            problem = problem_of(transformer)
        if problem is not None:
            run.report(Info(message=problem))
        if cache is not None:
            run.report(Info(message=f"{cache.reused} of {len(sigmas) - 1} steps were left out"))
        return unpack(packed, rows, columns)

    def _previews(self, requests: Sequence[GenerateRequest], grid: tuple[int, int], run: Run) -> Previews | None:
        if not any(request.preview for request in requests):
            return None
        if self.components.plan.strategy != "eager":
            run.report(Info(message="no previews: the autoencoder does not fit into memory beside the transformer"))
            return None

        vae = self._vae_memory()

        def decode(latents: Tensor) -> Image.Image:
            with self.network("vae", run) as autoencoder:
                return decoded(autoencoder, latents, vae, run.report)[0]

        return Previews(requests, grid, decode, run)

    def _source_latents(self, requests: Sequence[GenerateRequest], noise: Tensor, run: Run) -> Tensor:
        """Return the latents [B, C, h, w] of the source images, fp32; zeros for requests without one."""
        unused = self._variant == "kontext" and requests[0].mask_image is None
        if unused or all(request.source_image is None for request in requests):
            return torch.zeros_like(noise)
        with stage(run, "Encoding image"):
            return torch.cat(
                [
                    torch.zeros_like(empty)
                    if request.source_image is None
                    else self._sources.latents(request, partial(self._encode_image, run))
                    for empty, request in zip(noise.split(1), requests, strict=True)
                ]
            )

    def _inputs(self, requests: Sequence[GenerateRequest], run: Run) -> _Inputs:
        """Return what Fill and Kontext are given besides noise."""
        encode, variant = partial(self._encode_image, run), self._variant_of(requests[0])
        if variant == "control":
            with stage(run, "Encoding image"):
                latents = torch.cat([self._sources.latents(request, encode) for request in requests])
            return _Inputs(channels=pack(latents))
        if variant == "fill":
            with stage(run, "Encoding image"):
                return _Inputs(channels=torch.cat([self._inpainting_channels(request, encode) for request in requests]))
        if self._variant == "kontext" and requests[0].source_image is not None:
            with stage(run, "Encoding image"):
                latents = self._references.encoded(
                    requests[0], lambda: reference_pixels(requests[0], self._reference_px), encode
                )
            grid = (latents.shape[2] // _PACKING, latents.shape[3] // _PACKING)
            return _Inputs(reference=pack(latents), reference_grid=grid)
        return _Inputs()

    def _variant_of(self, request: GenerateRequest) -> Variant:
        """Return the variant of the transformer with the LoRAs of a request."""
        channels = 4 * self.autoencoder_config.latent_channels
        widened = self._variant in ("plain", "kontext") and takes_control_image(request.loras or (), channels)
        return "control" if widened else self._variant

    def _inpainting_channels(self, request: GenerateRequest, encode: Callable[[Tensor], Tensor]) -> Tensor:
        pixels, mask = masked_pixels(request)
        return inpainting_channels(self._sources.encoded(request, lambda: pixels, encode), mask)

    def _encode_image(self, run: Run, pixels: Tensor) -> Tensor:
        with self.network("vae", run) as autoencoder:
            return encoded(autoencoder, pixels)

    def _conditioning(
        self,
        transformer: FluxTransformer,
        requests: Sequence[GenerateRequest],
        txt: Tensor,
        pooled: Tensor,
        sigmas: Sequence[float],
        grid: tuple[int, int],
        inputs: _Inputs,
    ) -> Conditioning:
        if len({(request.prompt, request.guidance) for request in requests}) == 1:
            requests, pooled = requests[:1], pooled[:1]  # PERF: one modulation for the whole batch
        native = self._native.grid if self._native else None
        conditioning = transformer.prepare(
            txt,
            pooled,
            torch.tensor(sigmas[:-1], device=self._device),
            torch.tensor([request.guidance for request in requests], device=self._device)
            if transformer.config.guidance_embed
            else None,
            rope(transformer.config, txt.shape[1], *grid, self._device, native, inputs.reference_grid),
        )
        moved = inputs.to(self._device, conditioning.dtype)
        return evolve(conditioning, channels=moved.channels, reference=moved.reference)

    def _encode(self, requests: Sequence[GenerateRequest], run: Run) -> tuple[Tensor, Tensor]:
        prompts, loras = [request.prompt for request in requests], requests[0].loras or ()
        use, variant = self._use(loras, run), self.text_variant(loras)
        if self.prompts.knows(prompts, variant):
            run.report(CacheHit(resource="prompt conditioning"))
            tokens, pooled = self.prompts.encode(prompts, use, variant)
        else:
            with stage(run, "Encoding prompt"):
                tokens, pooled = self.prompts.encode(prompts, use, variant)
        dtype = self._dtypes["transformer"]
        return tokens.to(self._device, dtype), pooled.to(self._device, dtype)

    def _use(self, loras: Sequence[LoraWeight], run: Run) -> Use:
        """Return what provides a network by its name, with LoRAs beside its layers."""
        return lambda name: self.network(name, run, loras=loras, dtype=self._dtypes[name])


@frozen(kw_only=True, eq=False)
class _Inputs:
    """What the transformer is given besides noise: channels of every token [B, N, C], tokens of a reference image."""

    channels: Tensor | None = None
    reference: Tensor | None = None
    reference_grid: tuple[int, int] | None = None

    def to(self, device: str, dtype: torch.dtype) -> _Inputs:
        """Return the same on a device, in a dtype."""
        channels = None if self.channels is None else self.channels.to(device, dtype)
        reference = None if self.reference is None else self.reference.to(device, dtype)
        return evolve(self, channels=channels, reference=reference)


def _useful_threads(multiply_adds: int, threads: int) -> int:
    """Return the number of threads that speed up a step of this much work; for little work, one."""
    return max(1, min(threads, multiply_adds // _WORK_PER_THREAD))
