"""A loaded LTX-2 model: a request in, frames and sound out."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from mold_core import CacheHit, Frames, GenerateRequest, Info, Run, Sound
from mold_core.families import ComponentPipeline, StepReporter, required, seeded_generator, stage
from mold_core.weights import LoadedComponents, problem_of
from mold_ltx2.checks import lacking_upsampler
from mold_ltx2.conditioning import ClipPrefix, Conditioning
from mold_ltx2.configs import Version
from mold_ltx2.decoding import Autoencoders
from mold_ltx2.in_context import reference_downscale
from mold_ltx2.latents import Geometry, frame_positions, pack, pack_audio, unpack, unpack_audio
from mold_ltx2.lora_names import Ltx2Names
from mold_ltx2.prompts import PromptEncoder
from mold_ltx2.sampling import Prompt, Stream, denoise, noised, schedule
from mold_ltx2.sampling_plan import Pass, SamplingPlan, sampling_plan_of
from mold_ltx2.upsampling import Upsamplers

__all__ = ["Ltx2Pipeline"]

_DEFAULT_NEGATIVE = "worst quality, inconsistent motion, blurry, jittery, distorted"


class Ltx2Pipeline(ComponentPipeline):
    """Video and audio with LTX-2. Keeps weights and encoded prompts, and no state of a request.

    `transformer` has no weights; it provides sizes and positions. The component of that name has the weights.
    """

    def __init__(
        self,
        components: LoadedComponents,
        *,
        transformer: Any,
        autoencoders: Autoencoders,
        prompts: PromptEncoder,
        upsamplers: Upsamplers,
        version: Version,
        distilled: bool,
        sigmas: Sequence[float] | None,
        device: str,
        dtype: torch.dtype,
        distilled_lora: Path | None = None,
    ) -> None:
        super().__init__(components, budget_device=device, lora_names=Ltx2Names())
        self.transformer = transformer
        self.autoencoders = autoencoders
        self.prompts = prompts
        self.upsamplers = upsamplers
        self._version = version
        self._distilled = distilled
        self._sigmas = tuple(sigmas) if sigmas else None
        self._device = device
        self._dtype = dtype
        self._distilled_lora = distilled_lora

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        """Return one video per request."""
        videos: list[Frames] = []
        for request in requests:
            plan = self._plan(request)
            conditioning = Conditioning(request, self.autoencoders, None, doubled=plan.doubled)
            video, audio = self._latents(request, plan, conditioning, run)
            with stage(run, "Decoding"):
                images = tuple(self.autoencoders.frames(video, report=run.report))
                sound = self._sound(request, conditioning, audio, run) if request.enable_audio else None
            videos.append(Frames(images=images, fps=float(required(request.fps)), sound=sound))
        return videos

    def render(self, request: GenerateRequest, run: Run, prefix: ClipPrefix | None = None) -> tuple[Tensor, Tensor]:
        """Return the latents of a clip: video [1, C, F, H, W] and audio [1, C, L, M].

        With `prefix` the clip continues another clip: it begins with these latents, and a source image follows
        them.
        """
        plan = self._plan(request)
        return self._latents(request, plan, Conditioning(request, self.autoencoders, prefix, doubled=plan.doubled), run)

    def learn(self, prompts: Sequence[str], run: Run) -> None:
        """Encode prompts that are needed later, if the text encoder does not stay in memory."""
        if self.components.plan.strategy != "eager" and not all(map(self.prompts.knows, prompts)):
            with torch.inference_mode(), stage(run, "Encoding prompts"):
                self.prompts.encode(prompts, run.report)

    # --- passes --------------------------------------------------------------------------------------------------

    def _latents(
        self, request: GenerateRequest, plan: SamplingPlan, conditioning: Conditioning, run: Run
    ) -> tuple[Tensor, Tensor]:
        """Return the latents of a clip after all passes of its plan, and the upsamplers between them."""
        with torch.inference_mode():
            encoded = self._encode(request, plan, run)
            generator = seeded_generator(required(request.seed))
            steps = StepReporter(run, plan.steps, self._device)
            full_size = self._geometry(request, plan, Fraction(1))
            geometry = self._geometry(request, plan, plan.scale)
            first, *more = plan.passes
            video, audio = self._pass(first, geometry, encoded, conditioning, generator, steps)
            if plan.enlarge:
                video = self.upsamplers.apply(plan.enlarge, video)[..., : full_size.height, : full_size.width]
            for sampling_pass in more:
                video, audio = self._pass(
                    sampling_pass, full_size, encoded, conditioning, generator, steps, (video, audio)
                )
            return (self.upsamplers.apply("temporal-x2", video) if plan.doubled else video), audio

    def _pass(
        self,
        sampling_pass: Pass,
        geometry: Geometry,
        encoded: tuple[Prompt, Prompt | None],
        conditioning: Conditioning,
        generator: torch.Generator,
        steps: StepReporter,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        sigmas = sampling_pass.sigmas or schedule(sampling_pass.steps, geometry.tokens)
        streams = (
            self._video_stream(sampling_pass, geometry, conditioning, start[0] if start else None),
            self._audio_stream(geometry, conditioning, start[1] if start else None),
        )
        video, audio = (
            noised(stream, torch.randn(stream.tokens.shape, generator=generator).to(self._device), sigmas[0])
            for stream in streams
        )
        with self.network("transformer", steps.run, loras=sampling_pass.loras, dtype=self._dtype) as transformer:
            tokens, sounds = denoise(
                transformer,
                geometry,
                video,
                audio,
                encoded[0],
                sigmas,
                lambda *_: steps.advance(),
                cross_timestep=self._version.cross_timestep,
                guidance=sampling_pass.guidance,
                negative=encoded[1],
                stg_blocks=self._version.stg_blocks,
                fresh=generator if sampling_pass.second_order else None,
            )
            problem = problem_of(transformer)
        if problem is not None:
            steps.run.report(Info(message=problem))
        channels = self.autoencoders.audio_vae.config.latent_channels
        return unpack(tokens, geometry), unpack_audio(sounds, channels)

    def _video_stream(
        self, sampling_pass: Pass, geometry: Geometry, conditioning: Conditioning, start: Tensor | None
    ) -> Stream:
        channels = self.transformer.config.in_channels
        shape = (1, channels, geometry.frames, geometry.height, geometry.width)
        latents = torch.zeros(shape, device=self._device) if start is None else start.clone()
        clean, mask = torch.zeros_like(latents), torch.zeros((1, 1, *shape[2:]), device=self._device)
        fixed = conditioning.video(geometry)
        if fixed is not None:
            indices = torch.nonzero(fixed.mask).flatten()
            latents[:, :, indices] = clean[:, :, indices] = fixed.latents[:, :, indices].to(self._device)
            mask[:, :, indices] = 1
        appended: list[tuple[Tensor, float, Tensor]] = []
        for item in conditioning.images:
            stride = geometry.strides[1]
            encoded = self.autoencoders.encode_image(item.image, geometry.width * stride, geometry.height * stride)
            if item.appended:
                appended.append((pack(encoded), item.strength, frame_positions(geometry, item.frame, self._device)))
            else:
                latents[:, :, :1] = clean[:, :, :1] = encoded
                mask[:, :, :1] = item.strength
        if sampling_pass.uses_reference:
            downscale = reference_downscale(sampling_pass.loras)
            encoded = conditioning.reference_video(geometry, downscale)
            appended.append((pack(encoded), 1.0, self._video_positions(encoded.shape[2:], geometry.fps, downscale)))
        positions = self._video_positions(latents.shape[2:], geometry.fps)
        masks = (torch.full_like(tokens[..., :1], strength) for tokens, strength, _ in appended)
        return Stream(
            tokens=torch.cat([pack(latents), *(tokens for tokens, _, _ in appended)], 1),
            mask=torch.cat([pack(mask), *masks], 1),
            clean=torch.cat([pack(clean), *(tokens for tokens, _, _ in appended)], 1),
            positions=torch.cat([positions, *(position for _, _, position in appended)], 2),
        )

    def _video_positions(self, shape: Sequence[int], fps: float, downscale: int = 1) -> Tensor:
        """Return the positions of the tokens of latents [F, H, W], each `downscale` times as wide as usual."""
        positions: Tensor = self.transformer.rope.prepare_video_coords(1, *shape, self._device, fps=fps)
        positions[:, 1:] *= downscale
        return positions

    def _audio_stream(self, geometry: Geometry, conditioning: Conditioning, start: Tensor | None) -> Stream:
        config = self.autoencoders.audio_vae.config
        width = self.transformer.config.audio_in_channels
        shape = (1, config.latent_channels, geometry.audio, width // config.latent_channels)
        latents = torch.zeros(shape, device=self._device) if start is None else start.clone()
        clean, mask = torch.zeros_like(latents), torch.zeros((1, geometry.audio, 1), device=self._device)
        fixed = conditioning.audio(geometry)
        if fixed is not None:
            indices = torch.nonzero(fixed.mask).flatten()
            latents[:, :, indices] = clean[:, :, indices] = fixed.latents[:, :, indices].to(self._device)
            mask[:, indices] = 1
        positions = self.transformer.audio_rope.prepare_audio_coords(1, geometry.audio, self._device)
        return Stream(tokens=pack_audio(latents), mask=mask, clean=pack_audio(clean), positions=positions)

    def _sound(self, request: GenerateRequest, conditioning: Conditioning, audio: Tensor, run: Run) -> Sound:
        """Return the sound of the request, with silence after its end, or the generated sound."""
        seconds = required(request.frames) / required(request.fps)
        if conditioning.sound is None:
            return self.autoencoders.sound(audio, seconds, report=run.report)
        missing = round(seconds * conditioning.sound.sample_rate) - conditioning.sound.samples.shape[1]
        return evolve(conditioning.sound, samples=np.pad(conditioning.sound.samples, ((0, 0), (0, max(0, missing)))))

    # --- inputs of a request ---------------------------------------------------------------------------------

    def _plan(self, request: GenerateRequest) -> SamplingPlan:
        plan = sampling_plan_of(
            request,
            distilled=self._distilled,
            sigmas=self._sigmas,
            upsamplers=self.upsamplers.kinds,
            distilled_lora=self._distilled_lora,
        )
        for kind in plan.upsamplers:
            if kind not in self.upsamplers:
                raise lacking_upsampler(request.model or "the model", kind)
        return plan

    def _geometry(self, request: GenerateRequest, plan: SamplingPlan, scale: Fraction) -> Geometry:
        codec = self.autoencoders
        stride = codec.vae.spatial_compression_ratio
        width, height = (ceil(required(side) // stride / scale) * stride for side in (request.width, request.height))
        frames, fps = required(request.frames), float(required(request.fps))
        if plan.doubled:
            frames, fps = (frames - 1) // 2 + 1, fps / 2
        return Geometry.of(codec.vae, codec.audio_vae, frames=frames, width=width, height=height, fps=fps)

    def _encode(self, request: GenerateRequest, plan: SamplingPlan, run: Run) -> tuple[Prompt, Prompt | None]:
        prompts = [request.prompt]
        if any(one.guidance.needs_negative for one in plan.passes):
            prompts.append(request.negative_prompt or _DEFAULT_NEGATIVE)
        if all(map(self.prompts.knows, prompts)):
            run.report(CacheHit(resource="prompt conditioning"))
            encoded = self.prompts.encode(prompts, run.report)
        else:
            with stage(run, "Encoding prompt"):
                encoded = self.prompts.encode(prompts, run.report)
        on_device = [prompt.to(self._device) for prompt in encoded]
        return on_device[0], on_device[1] if len(on_device) > 1 else None
