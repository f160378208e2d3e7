"""A loaded LTX-2 model: a request in, frames and sound out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from time import perf_counter
from typing import Any

import torch
from attrs import evolve, frozen
from PIL import Image
from torch import Tensor, nn

from mold_core import CacheHit, Frames, GenerateRequest, Run, StageDone, StageStart
from mold_ltx2.configs import Version
from mold_ltx2.decoding import Autoencoders
from mold_ltx2.latents import Geometry, frame_tokens, pack, pack_audio, unpack, unpack_audio
from mold_ltx2.prompts import PromptEncoder
from mold_ltx2.sampling import DISTILLED, REFINING, Guidance, Prompt, Stream, denoise, noised, schedule
from mold_ltx2.upsampling import Upsamplers

__all__ = ["Held", "Ltx2Pipeline", "Pinned"]

# How far a later picture is held to, and the guidance of models that are not distilled: as published.
_LATER_STRENGTH = 0.4
_GUIDED = {"audio_prompt": 7.0, "skipping": 1.0, "modality": 3.0, "rescale": 0.7}

_DEFAULT_NEGATIVE = "worst quality, inconsistent motion, blurry, jittery, distorted"


@frozen(kw_only=True, eq=False)
class Held:
    """A picture that the clip shows at a frame, and how surely: 1 exactly, 0 not at all."""

    frame: int
    picture: Image.Image
    strength: float


@frozen(kw_only=True, eq=False)
class Pinned:
    """Latents that a clip begins with, exactly: of video [1, C, n, H, W] and of sound [1, C, L, M]."""

    video: Tensor
    audio: Tensor


class Ltx2Pipeline:
    """Video and sound with LTX-2. Holds weights and remembered prompts, nothing of a request."""

    def __init__(
        self,
        *,
        transformer: Any,
        autoencoders: Autoencoders,
        prompts: PromptEncoder,
        upsamplers: Upsamplers,
        version: Version,
        distilled: bool,
        sigmas: Sequence[float] | None,
        device: str,
    ) -> None:
        self.transformer = transformer
        self.autoencoders = autoencoders
        self.prompts = prompts
        self.upsamplers = upsamplers
        self._version = version
        self._distilled = distilled
        self._sigmas = tuple(sigmas) if sigmas else None
        self._device = device

    @property
    def size_bytes(self) -> int:
        """Memory of all weights, in bytes."""
        return sum(
            tensor.numel() * tensor.element_size()
            for module in self._modules()
            for tensor in module.state_dict().values()
        )

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        """Return one video per request."""
        made = []
        for request in requests:
            video, audio = self.render(request, run)
            with _stage(run, "Decoding"):
                images = tuple(self.autoencoders.frames(video))
                seconds = len(images) / _given(request.fps)
                sound = self.autoencoders.sound(audio, seconds) if request.enable_audio else None
            made.append(Frames(images=images, fps=float(_given(request.fps)), sound=sound))
        return made

    def render(self, request: GenerateRequest, run: Run, pinned: Pinned | None = None) -> tuple[Tensor, Tensor]:
        """Return the latents of a clip: video [1, C, F, H, W] and sound [1, C, L, M].

        With `pinned` the clip goes on from another one: its first latents are those, and a source image is one that it
        comes to after them.
        """
        with torch.inference_mode():
            prompt, negative = self._encode(request, run)
            generator = torch.Generator().manual_seed(_folded(_given(request.seed)))
            held = _pictures(request, after=self._frames_of(pinned))
            run_steps = _Steps(run, self._step_counts(request))
            if self._two_stages(request):
                video, audio = self._refined(request, prompt, held, pinned, generator, run_steps)
            else:
                geometry = self._geometry(request, 1)
                levels = self._levels(request, geometry)
                video, audio = self._pass(
                    request, geometry, prompt, negative, held, pinned, generator, levels, run_steps
                )
            return video, audio

    def close(self) -> None:
        """Free the weights."""
        for module in self._modules():
            module.to("meta")
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()

    # --- passes --------------------------------------------------------------------------------------------------

    def _two_stages(self, request: GenerateRequest) -> bool:
        return self._distilled and "spatial-x2" in self.upsamplers and request.pipeline != "one-stage"

    def _refined(
        self,
        request: GenerateRequest,
        prompt: Prompt,
        held: Sequence[Held],
        pinned: Pinned | None,
        generator: torch.Generator,
        on_step: _Steps,
    ) -> tuple[Tensor, Tensor]:
        """Make a clip at half the size, make its latents twice as large, and denoise those a little once more."""
        small = self._geometry(request, 2)
        smaller = None if pinned is None else evolve(pinned, video=_halved(pinned.video, small))
        video, audio = self._pass(request, small, prompt, None, held, smaller, generator, DISTILLED, on_step)
        start = (self.upsamplers.apply("spatial-x2", video), audio)
        on_step.offset = len(DISTILLED)
        geometry = self._geometry(request, 1)
        return self._pass(request, geometry, prompt, None, held, pinned, generator, REFINING, on_step, start=start)

    def _pass(
        self,
        request: GenerateRequest,
        geometry: Geometry,
        prompt: Prompt,
        negative: Prompt | None,
        held: Sequence[Held],
        pinned: Pinned | None,
        generator: torch.Generator,
        sigmas: Sequence[float],
        on_step: _Steps,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        video = self._video_stream(request, geometry, held, pinned, start[0] if start else None)
        audio = self._audio_stream(geometry, pinned, start[1] if start else None)
        video, audio = (
            noised(stream, torch.randn(stream.tokens.shape, generator=generator).to(self._device), sigmas[0])
            for stream in (video, audio)
        )
        tokens, sounds = denoise(
            self.transformer,
            geometry,
            video,
            audio,
            prompt,
            sigmas,
            on_step,
            cross_timestep=self._version.cross_timestep,
            guidance=self._guidance(request),
            negative=negative,
            stg_blocks=self._version.stg_blocks,
        )
        channels = self.autoencoders.audio_vae.config.latent_channels
        return unpack(tokens, geometry), unpack_audio(sounds, channels)

    def _video_stream(
        self,
        request: GenerateRequest,
        geometry: Geometry,
        held: Sequence[Held],
        pinned: Pinned | None,
        start: Tensor | None,
    ) -> Stream:
        channels = self.transformer.config.in_channels
        shape = (1, channels, geometry.frames, geometry.height, geometry.width)
        latents = torch.zeros(shape, device=self._device) if start is None else start.clone()
        clean, mask = torch.zeros_like(latents), torch.zeros((1, 1, *shape[2:]), device=self._device)
        appended: list[tuple[Tensor, float, Tensor]] = []
        if pinned is not None:
            count = pinned.video.shape[2]
            latents[:, :, :count] = clean[:, :, :count] = pinned.video.to(self._device)
            mask[:, :, :count] = 1
        for item in held:
            space = geometry.strides[1]
            encoded = self.autoencoders.encode_picture(item.picture, geometry.width * space, geometry.height * space)
            if item.frame == 0:
                latents[:, :, :1] = clean[:, :, :1] = encoded
                mask[:, :, :1] = item.strength
            else:
                appended.append((pack(encoded), item.strength, frame_tokens(geometry, item.frame, self._device)))
        places = self.transformer.rope.prepare_video_coords(
            1, geometry.frames, geometry.height, geometry.width, self._device, fps=geometry.fps
        )
        masks = (torch.full_like(tokens[..., :1], strength) for tokens, strength, _ in appended)
        return Stream(
            tokens=torch.cat([pack(latents), *(tokens for tokens, _, _ in appended)], 1),
            mask=torch.cat([pack(mask), *masks], 1),
            clean=torch.cat([pack(clean), *(tokens for tokens, _, _ in appended)], 1),
            places=torch.cat([places, *(place for _, _, place in appended)], 2),
        )

    def _audio_stream(self, geometry: Geometry, pinned: Pinned | None, start: Tensor | None) -> Stream:
        config = self.autoencoders.audio_vae.config
        width = self.transformer.config.audio_in_channels
        shape = (1, config.latent_channels, geometry.audio, width // config.latent_channels)
        latents = torch.zeros(shape, device=self._device) if start is None else start.clone()
        clean, mask = torch.zeros_like(latents), torch.zeros((1, geometry.audio, 1), device=self._device)
        if pinned is not None:
            count = pinned.audio.shape[2]
            latents[:, :, :count] = clean[:, :, :count] = pinned.audio.to(self._device)
            mask[:, :count] = 1
        places = self.transformer.audio_rope.prepare_audio_coords(1, geometry.audio, self._device)
        return Stream(tokens=pack_audio(latents), mask=mask, clean=pack_audio(clean), places=places)

    # --- what a request asks for ---------------------------------------------------------------------------------

    def _geometry(self, request: GenerateRequest, divisor: int) -> Geometry:
        codec = self.autoencoders
        space = codec.vae.spatial_compression_ratio
        width, height = (-(-_given(side) // space // divisor) * space for side in (request.width, request.height))
        return Geometry.of(
            codec.vae,
            codec.audio_vae,
            frames=_given(request.frames),
            width=width,
            height=height,
            fps=float(_given(request.fps)),
        )

    def _levels(self, request: GenerateRequest, geometry: Geometry) -> tuple[float, ...]:
        if self._sigmas is not None:
            return self._sigmas
        return DISTILLED if self._distilled else schedule(_given(request.steps), geometry.tokens)

    def _step_counts(self, request: GenerateRequest) -> int:
        if self._two_stages(request):
            return len(DISTILLED) + len(REFINING)
        return len(self._levels(request, self._geometry(request, 1)))

    def _guidance(self, request: GenerateRequest) -> Guidance:
        if self._distilled:
            return Guidance()
        return Guidance(prompt=_given(request.guidance), **_GUIDED)

    def _encode(self, request: GenerateRequest, run: Run) -> tuple[Prompt, Prompt | None]:
        wanted = [request.prompt]
        if self._guidance(request).needs_negative:
            wanted.append(request.negative_prompt or _DEFAULT_NEGATIVE)
        if all(map(self.prompts.knows, wanted)):
            run.report(CacheHit(resource="prompt conditioning"))
            encoded = [self.prompts.encode(text) for text in wanted]
        else:
            with _stage(run, "Encoding prompt"):
                encoded = [self.prompts.encode(text) for text in wanted]
        return encoded[0], encoded[1] if len(encoded) > 1 else None

    def _frames_of(self, pinned: Pinned | None) -> int:
        if pinned is None:
            return 0
        return (pinned.video.shape[2] - 1) * self.autoencoders.vae.temporal_compression_ratio + 1

    def _modules(self) -> tuple[nn.Module, ...]:
        codec = self.autoencoders
        modules = (
            self.transformer,
            codec.vae,
            codec.audio_vae,
            codec.vocoder,
            self.prompts.gemma,
            self.prompts.connectors,
        )
        return (*modules, *self.upsamplers.networks.values())


class _Steps:
    """Tells the run about every step of all passes, with its duration."""

    def __init__(self, run: Run, total: int) -> None:
        self._run = run
        self._total = total
        self._last = perf_counter()
        self.offset = 0

    def __call__(self, step: int, _total: int) -> None:
        now = perf_counter()
        self._run.step(self.offset + step, self._total, elapsed_ms=round((now - self._last) * 1000))
        self._last = now


def _pictures(request: GenerateRequest, after: int) -> list[Held]:
    """Return the pictures a clip shall show: its source image, at the beginning or `after` what it goes on from."""
    keyframes = request.keyframes or ()
    held = [Held(frame=item.frame, picture=_opened(item.image), strength=1.0) for item in keyframes]
    if request.source_image is not None:
        strength = _LATER_STRENGTH if after else request.strength
        held.append(Held(frame=after, picture=_opened(request.source_image), strength=strength))
    return held


def _folded(seed: int) -> int:
    """Return a seed of up to 64 bits in the 32 that torch's CPU generator looks at; smaller ones stay as they are."""
    return (seed ^ (seed >> 32)) & 0xFFFF_FFFF


def _opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")  # the engine has looked at it


def _halved(latents: Tensor, small: Geometry) -> Tensor:
    """Return pinned latents at the size of the first pass."""
    size = (latents.shape[2], small.height, small.width)
    return torch.nn.functional.interpolate(latents, size=size, mode="area")


@contextmanager
def _stage(run: Run, name: str) -> Iterator[None]:
    started = perf_counter()
    run.report(StageStart(name=name))
    yield
    run.report(StageDone(name=name, elapsed_ms=round((perf_counter() - started) * 1000)))


def _given(value: Any) -> Any:
    assert value is not None  # the request is complete
    return value
