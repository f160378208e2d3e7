"""All hooks of mold, and the protocols of the objects that hooks return.

A plugin is a distribution with an entry point in the group ``mold`` that names a module. Functions of the module that
are marked with `hookimpl` and named like a hook below are called when mold starts. So the module must be cheap to
import: import torch and similar packages inside the methods of the returned objects.

    from mold_core import hookimpl

    @hookimpl
    def mold_families():
        return [MyFamily()]

Objects may inherit from the protocols here, which have defaults for optional members, or just have the required
attributes and methods: mold supplies the defaults of the others. `mold plugins` reports members that are misspelt,
missing or have wrong arguments.

A plugin module may declare the first and last version of these hooks that it supports:

    MOLD_HOOK_API = (2, 2)

Optional arguments may be added to hooks and methods over time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import attrs
import pluggy

from mold_core.deprecated import CLIP_RULES, old_name, renamed_fields
from mold_core.parameters import LoraShorthand, Parameter
from mold_core.placement.memory_plan import MemoryPlan, MemoryPolicy, ModelComponent
from mold_core.settings import PlacementComponent, Setting

if TYPE_CHECKING:
    import click
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from mold_core.catalog import LocalFiles, ModelSpec, Signature
    from mold_core.jobs.job import Job
    from mold_core.placement.device import DeviceInfo
    from mold_core.settings import AttentionChoice, CompileMode, ComputeMode, ExpandWeights, Settings
    from mold_core.weights import TensorSource
    from mold_core.wire import GenerateRequest, ProgressEvent

__all__ = [
    "HOOK_API",
    "OLDEST_HOOK_API",
    "Capability",
    "ChainRenderer",
    "DecodedClip",
    "Executor",
    "ExpandContext",
    "Expansion",
    "Frames",
    "InstalledPlugins",
    "LoadContext",
    "LoraShorthand",
    "ModelFamily",
    "Parameter",
    "Pipeline",
    "PromptExpander",
    "Run",
    "SizeRules",
    "Sound",
    "UpscalerArchitecture",
    "UpscalerNetwork",
    "WeightLoader",
    "Worker",
    "hookimpl",
    "hookspec",
]

# The version of the hooks and protocols in this module, and the oldest version whose plugins still work.
HOOK_API = 2
OLDEST_HOOK_API = 1

hookspec = pluggy.HookspecMarker("mold")
hookimpl = pluggy.HookimplMarker("mold")


# --- the hooks ---------------------------------------------------------------------------------------------------


@hookspec
def mold_families() -> Iterable[ModelFamily]:  # type: ignore[empty-body]
    """Return the model architectures this plugin can run."""


@hookspec
def mold_models() -> Iterable[ModelSpec]:  # type: ignore[empty-body]
    """Return catalog entries, for families of this plugin or of another."""


@hookspec
def mold_signatures() -> Iterable[Signature]:  # type: ignore[empty-body]
    """Return how files of this plugin's models are recognised by the names and shapes of their tensors."""


@hookspec
def mold_loaders() -> Iterable[WeightLoader]:  # type: ignore[empty-body]
    """Return readers of weight file formats."""


@hookspec
def mold_chain_renderers() -> Iterable[ChainRenderer]:  # type: ignore[empty-body]
    """Return renderers of long videos, which render clip by clip."""


@hookspec
def mold_upscalers() -> Iterable[UpscalerArchitecture]:  # type: ignore[empty-body]
    """Return the super-resolution networks this plugin can recognise and run."""


@hookspec
def mold_expanders() -> Iterable[PromptExpander]:  # type: ignore[empty-body]
    """Return prompt expanders."""


@hookspec
def mold_executors() -> Iterable[Executor]:  # type: ignore[empty-body]
    """Return executors, which run workers in this process, in others or on other machines."""


@hookspec
def mold_settings() -> Iterable[Setting]:  # type: ignore[empty-body]
    """Return settings of this plugin: rows like those of mold, with flags where they have one."""


@hookspec
def mold_placement_components() -> Iterable[PlacementComponent]:  # type: ignore[empty-body]
    """Return components of models that people can place on a device of their own."""


@hookspec
def mold_commands(cli: click.Group) -> None:
    """Add commands to the `mold` command line."""


@hookspec
def mold_routes() -> Iterable[Any]:  # type: ignore[empty-body]
    """Return routes (`mold_http.Route`) to add to the server; called when a server starts."""


@hookspec
def mold_job_finished(job: Job) -> None:
    """Called with each job that is done, failed or cancelled. An exception is logged and has no other effect."""


# --- families ----------------------------------------------------------------------------------------------------

Capability = Literal[
    "text-to-image",
    "control",
    "image-editing",
    "image-to-image",
    "image-to-video",
    "inpaint",
    "lora",
    "negative-prompt",
    "scheduler",
    "text-to-video",
    "transparency",
]


@attrs.frozen(kw_only=True)
class SizeRules:
    """The image sizes that a family supports, in pixels. The size of a request is adjusted to the nearest one.

    `multiple`: width and height are rounded to multiples of it. `max_pixels` and `max_side`: larger images are scaled
    down with the aspect ratio kept. `min_side`: the minimum of both sides. `recommended`: sizes with the best results,
    for forms and hints. `max_side` must be a multiple of `multiple`.
    """

    multiple: int = 16
    max_pixels: int = 1_800_000
    min_side: int = 16
    max_side: int | None = None
    recommended: tuple[tuple[int, int], ...] = ()


@attrs.frozen(kw_only=True)
class Sound:
    """The sound of a video: a float32 numpy array [channels, samples] with values from -1 to 1; sample rate in Hz."""

    samples: NDArray[Any] = attrs.field(eq=False)
    sample_rate: int


@attrs.frozen(kw_only=True)
class Frames:
    """The result of a pipeline for one request: one image, or the frames of a video with `fps`."""

    images: tuple[Image, ...]
    fps: float | None = None
    sound: Sound | None = None


@attrs.frozen(kw_only=True)
class DecodedClip:
    """The frames of a clip, as RGB images decoded during iteration, and its sound."""

    images: Iterable[Image]
    sound: Sound | None = None


@runtime_checkable
class Run(Protocol):
    """A running batch of jobs: a pipeline reports its progress to it, and checks it for cancellation."""

    def report(self, event: ProgressEvent) -> None:
        """Send an event to every job of the batch.

        A `Preview` goes to one job: its `index` is the index of the request in the batch.
        """

    def step(self, step: int, total: int, elapsed_ms: int) -> None:
        """Report a finished denoising step, numbered from 1, then call `check()`."""

    def check(self) -> None:
        """Raise CancelledError if all jobs of the batch are cancelled. Call it between steps."""


@renamed_fields(wishes="memory_policy", room="available_bytes")
@attrs.frozen(kw_only=True)
class LoadContext:
    """How to load a model. `device` is a torch device name; `threads` None means torch's default.

    `report` receives WeightLoad and Info events during loading. `cache_dir` is a persistent folder for compiled kernels
    and converted files. `loaders` has the weight file formats of plugins, for
    `mold_core.weights.read_weights(path, context.loaders)`. `compile` is whether to compile code. `expand_weights` is
    whether to dequantize weights at load time; "auto" does so if the plan leaves enough memory. `compute` is the type
    in which layers with 8-bit weights multiply, for `load_weights`. `attention` and `cuda_graphs` select what to use on
    CUDA.

    `memory_policy` has the user's settings for memory and devices, `available_bytes` the limit of the model on each
    device (no entry: no limit), `plan` the memory plan, for a family that returns components. `capabilities` has the
    compute capability of each CUDA device (no entry: unknown, treated as the newest). `settings` has the values of the
    settings that plugins declare, by name.
    """

    device: str
    threads: int | None
    cache_dir: Path
    report: Callable[[ProgressEvent], None]
    loaders: tuple[WeightLoader, ...] = ()
    compile: CompileMode = "auto"
    compute: ComputeMode = "auto"
    expand_weights: ExpandWeights = "never"
    attention: AttentionChoice = "auto"
    cuda_graphs: bool = False
    memory_policy: MemoryPolicy = MemoryPolicy()
    available_bytes: Mapping[str, int] = attrs.Factory(dict)
    plan: MemoryPlan | None = None
    capabilities: Mapping[str, tuple[int, int]] = attrs.Factory(dict)
    settings: Mapping[str, Any] = attrs.Factory(dict)


class Pipeline(Protocol):
    """A loaded model. It must not keep state between requests, except caches that are bounded and keyed by content."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Measured memory of the model on the device of its context, in bytes."""

    @property
    def peak_bytes(self) -> int:
        """Peak memory on the device while it runs, in bytes. Default: `size_bytes`."""
        return self.size_bytes

    @abstractmethod
    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        """Return one Frames per request, in order.

        Requests are completed: size, steps, guidance and seed are set, batch_size is 1. Equal requests must give equal
        pixels, alone or in a batch, except for rounding. Call `run.step` after each step.
        """

    def replan(self, plan: MemoryPlan) -> None:
        """Use a new plan with the same strategy and components, for larger requests than before."""
        return

    @abstractmethod
    def close(self) -> None:
        """Free the memory. The pipeline is not used afterwards."""


class ModelFamily(Protocol):
    """A model architecture: its capabilities, its parameters, and loading of its models."""

    name: str
    title: str
    capabilities: frozenset[Capability]
    sizes: SizeRules
    parameters: tuple[Parameter, ...]

    placement_components: tuple[str, ...] = ()
    """Components that `context.memory_policy.devices` may name, such as "transformer". Empty: one device for all."""

    lora_shorthands: tuple[LoraShorthand, ...] = ()
    """Groups of LoRAs that `mold run` has a flag of its own for."""

    @abstractmethod
    def load(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Pipeline:
        """Return a pipeline for the model. Raises CheckpointError if the files do not fit the family."""

    def components(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Sequence[ModelComponent]:
        """Return the components of a model with their memory, in the order of use.

        The engine computes `context.plan` from them before `load`. For files that are not downloaded, use the sizes in
        the catalog. Empty: the model is loaded as a whole, without a plan.
        """
        return ()

    def resolve_inputs(self, spec: ModelSpec, request: GenerateRequest) -> GenerateRequest:
        """Return the request with values derived from its files, such as the frames and frame rate of a video.

        Called before the defaults of the model are filled in. It also sets the steps of a model with a fixed number of
        steps.
        """
        return request

    def sizes_of(self, spec: ModelSpec) -> SizeRules:
        """Return the size rules of a model. Default: those of the family."""
        return self.sizes

    def check(self, spec: ModelSpec, request: GenerateRequest) -> None:
        """Raise ValidationError with the field for a completed request that the model does not support."""
        return

    def batch_key(self, spec: ModelSpec, request: GenerateRequest) -> Hashable:
        """Return a key. Requests with equal keys may run as a batch; None: the request runs alone."""
        return None

    def batch_limit(self, spec: ModelSpec, request: GenerateRequest, device: str) -> int | None:
        """Return how many requests like this one are worth computing together on a device such as "cuda:0".

        A device that one request keeps busy gains nothing from more, which only take memory and delay the first
        result. None: as many as the setting max_batch and the memory allow.
        """
        return None

    def warm(self) -> None:
        """Import what loading needs. A worker process calls it when it starts, to save time on the first request."""
        return


# --- other protocols ---------------------------------------------------------------------------------------------


class WeightLoader(Protocol):
    """A weight file format."""

    name: str

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """Return whether the file has this format, from its first 64 bytes. The file name must not matter."""

    @abstractmethod
    def open(self, path: Path) -> Mapping[str, TensorSource]:
        """Return the tensors by name, with shapes and dtypes from the header; the data is read on access.

        Raises CheckpointError with the path.
        """


class ChainRenderer(Protocol):
    """Renders the clips of a long video. A clip may continue the previous one.

    `render` returns the latents of a clip and `decode` its frames. Latents are torch tensors on the CPU by name; mold
    saves them, so that a stopped chain can be resumed. `before` is the previous clip, or None if this clip does not
    continue it; `overlap` is the number of frames that this clip shares with the end of that one. `after` is the next
    clip if it continues this one, else None: decoding with the latents on both sides of a seam avoids a visible seam.

    `frame_stride`: the number of frames of clips and overlaps is a multiple of it, plus 1. `default_clip_frames`:
    frames of a clip if neither request nor model set them. `max_clip_frames`: the longest clip that clients offer.
    """

    family: str
    frame_stride: int = CLIP_RULES["frame_stride"]
    default_clip_frames: int = CLIP_RULES["default_clip_frames"]
    max_clip_frames: int = CLIP_RULES["max_clip_frames"]

    @abstractmethod
    def check(self, spec: ModelSpec) -> None:
        """Raise ValidationError with the reason for a model of the family that does not support chains."""

    def prepare(self, pipeline: Any, requests: Sequence[GenerateRequest], run: Run) -> None:
        """Compute what several clips need. Called before each clip, with its request and the following ones."""
        return

    @abstractmethod
    def render(
        self,
        pipeline: Any,
        request: GenerateRequest,
        before: Mapping[str, Tensor] | None,
        overlap: int,
        run: Run,
    ) -> Mapping[str, Tensor]:
        """Return the latents of a clip of `request.frames` frames, the first `overlap` of which continue `before`.

        Equal arguments must give equal latents, regardless of other calls.
        """

    @abstractmethod
    def decode(
        self,
        pipeline: Any,
        clip: Mapping[str, Tensor],
        before: Mapping[str, Tensor] | None,
        overlap: int,
        after: Mapping[str, Tensor] | None,
    ) -> DecodedClip:
        """Return the frames of a clip after its first `overlap`, and their sound.

        It may be called in another thread than `render`, while that renders a later clip.
        """


@attrs.frozen(kw_only=True, eq=False)
class UpscalerNetwork:
    """A loaded super-resolution network, and its parameters for tiling. All lengths are in pixels of the input.

    `module` takes float32 [B, 3, H, W] in 0..1 on the device and returns [B, 3, H·scale, W·scale] of any float dtype;
    values may exceed 0..1. It may compute in any dtype.

    `multiple`: H, W and the start of tiles are multiples of it; images are padded. `min_side`: the minimum of H and W.
    `overlap`: pixels that adjacent tiles share. `feather`: width of the zone in the middle of the overlap where one
    tile fades into the other; the rest is context. (overlap - feather) / 2 should be the receptive field of the
    network. `tile`: the preferred side of a tile. `bytes_per_pixel`: peak memory per pixel of the input. `size_bytes`:
    the weights in memory.
    """

    module: Callable[[Tensor], Tensor]
    scale: int
    size_bytes: int
    multiple: int = 1
    min_side: int = 1
    overlap: int = 32
    feather: int = 8
    tile: int = 256
    bytes_per_pixel: int = 16_384
    close: Callable[[], None] = lambda: None


class UpscalerArchitecture(Protocol):
    """A super-resolution architecture: recognises its networks in weight files and loads them."""

    name: str

    @abstractmethod
    def recognises(self, tensors: Mapping[str, TensorSource]) -> bool:
        """Return whether a file's tensors are a network of this architecture, from names and shapes only."""

    @abstractmethod
    def load(self, tensors: Mapping[str, TensorSource], context: LoadContext) -> UpscalerNetwork:
        """Return the network on the device of `context`. Raises CheckpointError for unexpected tensors."""


@attrs.frozen(kw_only=True)
class Expansion:
    """A request to an expander: `variations` detailed prompts for a short one, in the style of a model family.

    `backend` selects the expander, from the settings or from the image model: a name, a URL or a language model.
    """

    prompt: str
    family: str
    variations: int
    seed: int
    backend: str


@attrs.frozen(kw_only=True)
class ExpandContext:
    """The environment of an expander: the settings, the catalog, and the device that it may use.

    `resolve` returns the model for a name, or raises UnknownModelError; `locate` returns its files, or raises
    ModelNotFoundError if they are not downloaded. `loaders` has the weight file formats of plugins. `check` is always
    called with the device "cpu".
    """

    settings: Settings
    models: Mapping[str, ModelSpec]
    resolve: Callable[[str], ModelSpec]
    locate: Callable[[ModelSpec], LocalFiles]
    device: str = "cpu"
    threads: int | None = None
    loaders: tuple[WeightLoader, ...] = ()


class PromptExpander(Protocol):
    """Expands short prompts. `name` is its name in MOLD_EXPAND_BACKEND."""

    name: str

    model_families: frozenset[str] = frozenset()
    """Families of the catalog entries that are its language models."""

    @abstractmethod
    def expand(self, expansion: Expansion, context: ExpandContext, run: Run) -> Sequence[str]:
        """Return `expansion.variations` prompts, none of them blank. Equal expansions must give equal prompts.

        Called on a worker: call `run.check()` regularly, so that the job can be cancelled, and free loaded models
        before returning. Raises InferenceError on failure.
        """

    def takes(self, backend: str, context: ExpandContext) -> bool:
        """Return whether it supports a backend other than its name, such as a URL."""
        return False

    def check(self, expansion: Expansion, context: ExpandContext) -> None:
        """Raise ValidationError, before the job is queued, for an expansion that cannot work."""
        return

    def size_bytes(self, expansion: Expansion, context: ExpandContext) -> int:
        """Return the memory that it needs in bytes. The worker frees that much before `expand`."""
        return 0


class Worker(Protocol):
    """Runs models on one device. Its methods are called from one thread at a time.

    A method raises WorkerError if the worker died; its jobs then run again once.
    """

    on_death: Callable[[], object] | None = None
    """Set by the engine. The worker must call it if it dies while no method runs."""

    @property
    def alive(self) -> bool:
        """False if it has died; the engine then closes it and starts another one."""
        return True

    @abstractmethod
    def loaded(self) -> frozenset[str]:
        """Return the full names of the models in memory."""

    @abstractmethod
    def load(self, spec: ModelSpec, run: Run) -> None:
        """Load a model into memory."""

    @abstractmethod
    def unload(self, name: str | None = None) -> tuple[str, ...]:
        """Unload one model, or all. Returns the names of the unloaded models."""

    @abstractmethod
    def run(self, task: Any, run: Run) -> Any:
        """Run a picklable task (`mold_core.jobs.task.WorkerTask`) in the process of the models; return its result."""

    def device_info(self) -> DeviceInfo | None:
        """Return the name and memory of the device without waiting, or None if unknown."""
        return None

    def kill(self) -> bool:
        """Stop the running task immediately, if `close` does not stop it. Returns False if that is impossible."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Free everything."""


class InstalledPlugins(Protocol):
    """What the loaded plugins provide, for workers. mold passes a `mold_core.plugins.Plugins`.

    `source` can be pickled: `load_plugins` loads the same plugins from it in another process.
    """

    @property
    def source(self) -> Any:
        """The names of the plugins, for another process."""

    @property
    def families(self) -> Mapping[str, ModelFamily]:
        """Model families by name."""

    @property
    def chain_renderers(self) -> Mapping[str, ChainRenderer]:
        """Chain renderers by family."""

    @property
    def expanders(self) -> Mapping[str, PromptExpander]:
        """Prompt expanders by name."""

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """Catalog entries by full name."""

    @property
    def loaders(self) -> tuple[WeightLoader, ...]:
        """Readers of additional weight file formats."""

    @property
    def upscalers(self) -> Mapping[str, UpscalerArchitecture]:
        """Super-resolution architectures by name."""

    @property
    def placement_components(self) -> Mapping[str, PlacementComponent]:
        """Components that people can place on a device, by name."""

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Settings that plugins declare."""

    def read_settings(self, settings: Settings) -> Settings:
        """Return the settings with the values of those that plugins declare. Raises SettingsError."""


class Executor(Protocol):
    """Starts workers: in this process, in one process per device, or on other machines."""

    name: str

    @abstractmethod
    def start(self, device: str, settings: Settings, plugins: InstalledPlugins) -> Worker:
        """Return a worker for a device (a torch device name)."""


def __getattr__(name: str) -> Any:
    return old_name("mold_core.hookspecs", name)
