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
from mold_core.weights import LoadedComponents
from mold_core.weights.compiled_blocks import problem_of
from mold_ltx2.checks import lacking_upsampler
from mold_ltx2.conditioning import Conditioning, Pinned
from mold_ltx2.configs import Version
from mold_ltx2.decoding import Autoencoders
from mold_ltx2.in_context import shown_smaller
from mold_ltx2.latents import Geometry, frame_tokens, pack, pack_audio, unpack, unpack_audio
from mold_ltx2.lora_names import Ltx2Names
from mold_ltx2.prompts import PromptEncoder
from mold_ltx2.sampling import Prompt, Stream, denoise, noised, schedule
from mold_ltx2.sampling_plan import Pass, SamplingPlan, sampling_plan_of
from mold_ltx2.upsampling import Upsamplers

__all__ = ["Ltx2Pipeline"]

_DEFAULT_NEGATIVE = "worst quality, inconsistent motion, blurry, jittery, distorted"


class Ltx2Pipeline(ComponentPipeline):
    """Video and sound with LTX-2. Holds weights and remembered prompts, nothing of a request.

    `transformer` has no weights: it tells sizes and places. The network at work is the part of that name.
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
        made = []
        for request in requests:
            recipe = self._recipe(request)
            given = Conditioning(request, self.autoencoders, None, doubled=recipe.doubled)
            video, audio = self._made(request, recipe, given, run)
            with stage(run, "Decoding"):
                images = tuple(self.autoencoders.frames(video, report=run.report))
                sound = self._sound(request, given, audio, run) if request.enable_audio else None
            made.append(Frames(images=images, fps=float(required(request.fps)), sound=sound))
        return made

    def render(self, request: GenerateRequest, run: Run, pinned: Pinned | None = None) -> tuple[Tensor, Tensor]:
        """Return the latents of a clip: video [1, C, F, H, W] and sound [1, C, L, M].

        With `pinned` the clip goes on from another one: its first latents are those, and a source image is one that it
        comes to after them.
        """
        recipe = self._recipe(request)
        return self._made(
            request, recipe, Conditioning(request, self.autoencoders, pinned, doubled=recipe.doubled), run
        )

    def learn(self, prompts: Sequence[str], run: Run) -> None:
        """Encode prompts that are needed later, where the text encoder does not stay in memory."""
        if self.components.plan.strategy != "eager" and not all(map(self.prompts.knows, prompts)):
            with torch.inference_mode(), stage(run, "Encoding prompts"):
                self.prompts.encode(prompts, run.report)

    # --- passes --------------------------------------------------------------------------------------------------

    def _made(
        self, request: GenerateRequest, recipe: SamplingPlan, given: Conditioning, run: Run
    ) -> tuple[Tensor, Tensor]:
        """Denoise a clip as often as its recipe says, and make it larger and smoother in between."""
        with torch.inference_mode():
            prompts = self._encode(request, recipe, run)
            generator = seeded_generator(required(request.seed))
            steps = StepReporter(run, recipe.steps, self._device)
            whole = self._geometry(request, recipe, Fraction(1))
            geometry = self._geometry(request, recipe, recipe.scale)
            first, *more = recipe.passes
            video, audio = self._pass(first, geometry, prompts, given, generator, steps)
            if recipe.enlarge:
                video = self.upsamplers.apply(recipe.enlarge, video)[..., : whole.height, : whole.width]
            for one in more:
                video, audio = self._pass(one, whole, prompts, given, generator, steps, (video, audio))
            return (self.upsamplers.apply("temporal-x2", video) if recipe.doubled else video), audio

    def _pass(
        self,
        one: Pass,
        geometry: Geometry,
        prompts: tuple[Prompt, Prompt | None],
        given: Conditioning,
        generator: torch.Generator,
        steps: StepReporter,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        sigmas = one.sigmas or schedule(one.steps, geometry.tokens)
        streams = (
            self._video_stream(one, geometry, given, start[0] if start else None),
            self._audio_stream(geometry, given, start[1] if start else None),
        )
        video, audio = (
            noised(stream, torch.randn(stream.tokens.shape, generator=generator).to(self._device), sigmas[0])
            for stream in streams
        )
        with self.network("transformer", steps.run, loras=one.loras, dtype=self._dtype) as transformer:
            tokens, sounds = denoise(
                transformer,
                geometry,
                video,
                audio,
                prompts[0],
                sigmas,
                lambda *_: steps.advance(),
                cross_timestep=self._version.cross_timestep,
                guidance=one.guidance,
                negative=prompts[1],
                stg_blocks=self._version.stg_blocks,
                fresh=generator if one.twice else None,
            )
            problem = problem_of(transformer)
        if problem is not None:
            steps.run.report(Info(message=problem))
        channels = self.autoencoders.audio_vae.config.latent_channels
        return unpack(tokens, geometry), unpack_audio(sounds, channels)

    def _video_stream(self, one: Pass, geometry: Geometry, given: Conditioning, start: Tensor | None) -> Stream:
        channels = self.transformer.config.in_channels
        shape = (1, channels, geometry.frames, geometry.height, geometry.width)
        latents = torch.zeros(shape, device=self._device) if start is None else start.clone()
        clean, mask = torch.zeros_like(latents), torch.zeros((1, 1, *shape[2:]), device=self._device)
        fixed = given.video(geometry)
        if fixed is not None:
            stays = torch.nonzero(fixed.stays).flatten()
            latents[:, :, stays] = clean[:, :, stays] = fixed.latents[:, :, stays].to(self._device)
            mask[:, :, stays] = 1
        appended: list[tuple[Tensor, float, Tensor]] = []
        for item in given.images:
            space = geometry.strides[1]
            encoded = self.autoencoders.encode_image(item.image, geometry.width * space, geometry.height * space)
            if item.appended:
                appended.append((pack(encoded), item.strength, frame_tokens(geometry, item.frame, self._device)))
            else:
                latents[:, :, :1] = clean[:, :, :1] = encoded
                mask[:, :, :1] = item.strength
        if one.shown:
            smaller = shown_smaller(one.loras)
            encoded = given.shown(geometry, smaller)
            appended.append((pack(encoded), 1.0, self._video_places(encoded.shape[2:], geometry.fps, smaller)))
        places = self._video_places(latents.shape[2:], geometry.fps)
        masks = (torch.full_like(tokens[..., :1], strength) for tokens, strength, _ in appended)
        return Stream(
            tokens=torch.cat([pack(latents), *(tokens for tokens, _, _ in appended)], 1),
            mask=torch.cat([pack(mask), *masks], 1),
            clean=torch.cat([pack(clean), *(tokens for tokens, _, _ in appended)], 1),
            places=torch.cat([places, *(place for _, _, place in appended)], 2),
        )

    def _video_places(self, shape: Sequence[int], fps: float, smaller: int = 1) -> Tensor:
        """Return where the tokens of latents [F, H, W] lie in time and space, each `smaller` times as wide as usual."""
        places: Tensor = self.transformer.rope.prepare_video_coords(1, *shape, self._device, fps=fps)
        places[:, 1:] *= smaller
        return places

    def _audio_stream(self, geometry: Geometry, given: Conditioning, start: Tensor | None) -> Stream:
        config = self.autoencoders.audio_vae.config
        width = self.transformer.config.audio_in_channels
        shape = (1, config.latent_channels, geometry.audio, width // config.latent_channels)
        latents = torch.zeros(shape, device=self._device) if start is None else start.clone()
        clean, mask = torch.zeros_like(latents), torch.zeros((1, geometry.audio, 1), device=self._device)
        fixed = given.audio(geometry)
        if fixed is not None:
            stays = torch.nonzero(fixed.stays).flatten()
            latents[:, :, stays] = clean[:, :, stays] = fixed.latents[:, :, stays].to(self._device)
            mask[:, stays] = 1
        places = self.transformer.audio_rope.prepare_audio_coords(1, geometry.audio, self._device)
        return Stream(tokens=pack_audio(latents), mask=mask, clean=pack_audio(clean), places=places)

    def _sound(self, request: GenerateRequest, given: Conditioning, audio: Tensor, run: Run) -> Sound:
        """Return the sound that a video is made for, silence after its end, else the one that was made."""
        seconds = required(request.frames) / required(request.fps)
        if given.sound is None:
            return self.autoencoders.sound(audio, seconds, report=run.report)
        missing = round(seconds * given.sound.sample_rate) - given.sound.samples.shape[1]
        return evolve(given.sound, samples=np.pad(given.sound.samples, ((0, 0), (0, max(0, missing)))))

    # --- what a request asks for ---------------------------------------------------------------------------------

    def _recipe(self, request: GenerateRequest) -> SamplingPlan:
        recipe = sampling_plan_of(
            request,
            distilled=self._distilled,
            sigmas=self._sigmas,
            upsamplers=self.upsamplers.kinds,
            distilled_lora=self._distilled_lora,
        )
        for kind in recipe.upsamplers:
            if kind not in self.upsamplers:
                raise lacking_upsampler(request.model or "the model", kind)
        return recipe

    def _geometry(self, request: GenerateRequest, recipe: SamplingPlan, scale: Fraction) -> Geometry:
        codec = self.autoencoders
        space = codec.vae.spatial_compression_ratio
        width, height = (ceil(required(side) // space / scale) * space for side in (request.width, request.height))
        frames, fps = required(request.frames), float(required(request.fps))
        if recipe.doubled:
            frames, fps = (frames - 1) // 2 + 1, fps / 2
        return Geometry.of(codec.vae, codec.audio_vae, frames=frames, width=width, height=height, fps=fps)

    def _encode(self, request: GenerateRequest, recipe: SamplingPlan, run: Run) -> tuple[Prompt, Prompt | None]:
        wanted = [request.prompt]
        if any(one.guidance.needs_negative for one in recipe.passes):
            wanted.append(request.negative_prompt or _DEFAULT_NEGATIVE)
        if all(map(self.prompts.knows, wanted)):
            run.report(CacheHit(resource="prompt conditioning"))
            encoded = self.prompts.encode(wanted, run.report)
        else:
            with stage(run, "Encoding prompt"):
                encoded = self.prompts.encode(wanted, run.report)
        here = [prompt.to(self._device) for prompt in encoded]
        return here[0], here[1] if len(here) > 1 else None
