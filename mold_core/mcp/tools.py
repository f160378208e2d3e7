"""What the tools do, with an engine or a client of a server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import attrs
from mcp.types import ContentBlock

from mold_core.catalog import ModelSpec
from mold_core.chains import frames_of, request_of_length
from mold_core.engine import Engine
from mold_core.errors import ModelNotFoundError, ResultNotFoundError, ValidationError
from mold_core.mcp import arguments
from mold_core.mcp.content import GALLERY, image_content, link_to, text
from mold_core.wire import (
    DenoiseStep,
    ExpandRequest,
    ExpandResponse,
    GenerateRequest,
    GenerateResponse,
    UpscaleRequest,
    UpscaleResponse,
)
from mold_core.wire.base64_text import decode_base64
from mold_core.wire.chain import ChainDenoiseStep
from mold_core.wire.generate import MAX_FILE_BYTES

if TYPE_CHECKING:
    from mold_core.client import Client
    from mold_core.client.gallery import RemoteGallery
    from mold_core.gallery import Gallery

__all__ = ["GENERATING", "TOOLS", "Progress", "Tools", "read_result"]

T = TypeVar("T")
Content = list[ContentBlock]

# Reports progress: steps done, steps in all, words.
Progress = Callable[[float, float | None, str | None], Coroutine[Any, Any, None]]

_DEFAULT_FPS = 24


@attrs.frozen(kw_only=True, eq=False)
class Tools:
    """The tools around an engine and a gallery. With `local_files`, images may be paths of files of this machine."""

    engine: Engine | Client
    gallery: Gallery | RemoteGallery | None = None
    local_files: bool = False

    async def generate_image(self, asked: arguments.GenerateImage, progress: Progress) -> Content:
        """Return images generated from a prompt."""
        spec = await _in_thread(self._model, asked.model, "text-to-image")
        fields = attrs.asdict(asked, filter=lambda field, _: field.name not in ("model", "count"))
        request = GenerateRequest(model=spec.name, batch_size=asked.count, output_format="png", **fields)
        return await self._images(request, progress)

    async def edit_image(self, asked: arguments.EditImage, progress: Progress) -> Content:
        """Return an image generated from an image."""
        spec = await _in_thread(self._model, asked.model, "image-to-image")
        source = await _in_thread(self._image, asked.image, "image")
        more: dict[str, Any] = {} if asked.strength is None else {"strength": asked.strength}
        if asked.mask is not None:
            more["mask_image"] = await _in_thread(self._image, asked.mask, "mask")
        request = GenerateRequest(
            model=spec.name,
            prompt=asked.prompt,
            source_image=source,
            steps=asked.steps,
            seed=asked.seed,
            output_format="png",
            **more,
        )
        return await self._images(request, progress)

    async def upscale_image(self, asked: arguments.UpscaleImage, progress: Progress) -> Content:
        """Return an upscaled image."""
        request = UpscaleRequest(image=await _in_thread(self._image, asked.image, "image"), model=asked.model)
        if asked.model is None and isinstance(self.engine, Engine):
            request = attrs.evolve(request, model=await _in_thread(self.engine.installed_upscaler, request))
        result, files = await self._result(request, progress)
        assert isinstance(result, UpscaleResponse)
        image = result.image
        words = f"{image.width}x{image.height} pixels, by {result.model}"
        shown = await _in_thread(image_content, image.data, image.format)
        return [shown, *map(link_to, files), text(words)]

    async def generate_video(self, asked: arguments.GenerateVideo, progress: Progress) -> Content:
        """Return the link to a video generated from a prompt."""
        spec = await _in_thread(self._model, asked.model, "text-to-video")
        fps = asked.fps or spec.defaults.fps or _DEFAULT_FPS
        request = request_of_length(
            None if asked.seconds is None else frames_of(asked.seconds, fps),
            await _in_thread(self.engine.chain_frames, spec),
            model=spec.name,
            prompt=asked.prompt,
            fps=asked.fps,
            width=asked.width,
            height=asked.height,
            seed=asked.seed,
            source_image=None if asked.image is None else await _in_thread(self._image, asked.image, "image"),
            output_format="mp4",
        )
        result, files = await self._result(request, progress)
        video = result.video
        shown = [await _in_thread(image_content, video.thumbnail, "png")] if video.thumbnail else []
        words = f"{video.frames} frames at {video.fps} a second, {video.width}x{video.height}, seed {result.seed_used}"
        return [*shown, *map(link_to, files), text(words if files else f"{words}; there is no gallery to keep it")]

    async def expand_prompt(self, asked: arguments.ExpandPrompt, progress: Progress) -> Content:
        """Return detailed prompts for a short one."""
        request = ExpandRequest(prompt=asked.prompt, model=asked.model, variations=asked.variations)
        result, _files = await self._result(request, progress)
        assert isinstance(result, ExpandResponse)
        return [text(prompt) for prompt in result.expanded]

    async def list_models(self, asked: arguments.ListModels, progress: Progress) -> Content:
        """Return the installed models, one a line."""
        lines = await _in_thread(self._model_lines)
        return [text("\n".join(lines) or "no model is installed")]

    async def job_status(self, asked: arguments.JobId, progress: Progress) -> Content:
        """Return the state of a job and links to its results."""
        job: Any = await _in_thread(self.engine.job, asked.job_id)
        about = await _in_thread(job.to_json)
        words = [
            f"{name}: {about[name]}" for name in ("state", "kind", "model", "position", "error") if about.get(name)
        ]
        return [text("\n".join(words)), *map(link_to, about.get("files", ()))]

    async def cancel_job(self, asked: arguments.JobId, progress: Progress) -> Content:
        """Cancel a job."""
        job: Any = await _in_thread(self.engine.job, asked.job_id)
        cancelled = await _in_thread(job.cancel)
        return [text("cancelled" if cancelled else f"the job had ended before: {job.state}")]

    async def search_gallery(self, asked: arguments.SearchGallery, progress: Progress) -> Content:
        """Return links to earlier results."""
        if self.gallery is None:
            raise ValidationError("there is no gallery: MOLD_OUTPUT_DIR is empty")
        page: Any = await _in_thread(self.gallery.list, asked.query, asked.limit)
        found = [[link_to(entry.filename), text(entry.metadata.prompt)] for entry in page.entries]
        return [block for blocks in found for block in blocks] or [text("nothing was found")]

    # --- inside --------------------------------------------------------------------------------------------------

    async def _images(self, request: GenerateRequest, progress: Progress) -> Content:
        result, files = await self._result(request, progress)
        assert isinstance(result, GenerateResponse)
        shown = [await _in_thread(image_content, image.data, image.format) for image in result.images]
        words = f"{result.model}, {result.images[0].width}x{result.images[0].height}, seed {result.seed_used}"
        return [*shown, *map(link_to, files), text("\n".join([words, *result.warnings]))]

    async def _result(self, request: Any, progress: Progress) -> tuple[Any, list[str]]:
        """Return the result of a request and the names of its files. A caller that is cancelled cancels the job."""
        job: Any = await _in_thread(self.engine.submit, request)

        def follow() -> Any:
            for event in job.events():
                if isinstance(event, DenoiseStep | ChainDenoiseStep):
                    anyio.from_thread.run(progress, float(event.step), float(event.total), None)
            return job.result()

        try:
            await progress(0, None, f"job {job.id}")
            # Jobs may wait long. With the limit that all threads share, 40 of them would stop every other tool.
            limiter = anyio.CapacityLimiter(1)
            result = await anyio.to_thread.run_sync(follow, abandon_on_cancel=True, limiter=limiter)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await _in_thread(job.cancel)
            raise
        return result, list((await _in_thread(job.to_json)).get("files", ()))

    def _model(self, name: str | None, capability: str) -> ModelSpec:
        """Return the model of a name, or for none the default, or an installed one, that has the capability."""
        if name is not None:
            return self.engine.resolve(name)
        default = self.engine.default_model().spec
        installed = [entry.spec for entry in self.engine.models() if entry.downloaded and entry.runnable]
        for spec in (default, *installed):
            if capability in self.engine.capabilities(spec):
                return spec
        raise ModelNotFoundError(f"no installed model can do {capability}", field="model", hint="mold list shows all")

    def _image(self, words: str, field: str) -> bytes:
        """Return the file that an argument names. Raises ValidationError."""
        name = words.removeprefix(GALLERY)
        if self.gallery is not None and len(name) <= 255 and "/" not in name and "," not in name:
            try:
                return read_result(self.gallery, name)
            except (ResultNotFoundError, ValidationError):
                pass
        if self.local_files and (path := _local_file(words)) is not None:
            return _file(path, field)
        try:
            return decode_base64(words)
        except ValueError:
            raise ValidationError(
                f"{field} is neither a result in the gallery nor base64 text",
                field=field,
                hint="search_gallery finds names",
            ) from None

    def _model_lines(self) -> list[str]:
        return [
            f"{entry.spec.name}: {', '.join(sorted(self.engine.capabilities(entry.spec))) or entry.spec.family}"
            for entry in self.engine.models()
            if entry.downloaded and entry.runnable
        ]


async def _in_thread(function: Callable[..., T], *given: Any) -> T:
    return await anyio.to_thread.run_sync(partial(function, *given))


def _local_file(words: str) -> Path | None:
    """Return the file of this path; None for words that cannot be one, such as base64 text."""
    if len(words) > 4096:
        return None
    try:
        path = Path(words).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a name too long, an unknown user, a NUL
        return None


def _file(path: Path, field: str) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValidationError(f"{field} is larger than {MAX_FILE_BYTES:,} bytes", field=field)
    return path.read_bytes()


def read_result(gallery: Gallery | RemoteGallery, name: str) -> bytes:
    """Return the file of a result. Raises ResultNotFoundError."""
    from mold_core.gallery import Gallery

    if isinstance(gallery, Gallery):
        _entry, file = gallery.open(name)
        with file:
            return file.read()
    return gallery.read(name)


# Name → class of the arguments; methods of `Tools` are called like this.
TOOLS: Mapping[str, type] = {
    "generate_image": arguments.GenerateImage,
    "edit_image": arguments.EditImage,
    "upscale_image": arguments.UpscaleImage,
    "generate_video": arguments.GenerateVideo,
    "expand_prompt": arguments.ExpandPrompt,
    "list_models": arguments.ListModels,
    "job_status": arguments.JobId,
    "cancel_job": arguments.JobId,
    "search_gallery": arguments.SearchGallery,
}

# Tools that count against the rate of generation.
GENERATING = frozenset({"generate_image", "edit_image", "upscale_image", "generate_video", "expand_prompt"})
