"""Every hook of mold, on one page, and the shape of the objects that hooks return.

A plugin is a distribution with an entry point in the group ``mold`` that names a module. The module's functions marked
`hookimpl` and named like a hook below are called when mold starts, so the module must be cheap to import: torch and the
like belong inside the methods of the objects it returns.

    from mold_core import hookimpl

    @hookimpl
    def mold_families():
        return [MyFamily()]

Objects may inherit from the classes here, which hold the defaults of optional members. They need not: it is enough that
they have the required attributes and methods, and mold supplies the defaults of the others. `mold plugins` reports a
member that is misspelt, missing or takes other arguments.

A plugin module may state the versions of these hooks that it was made for, the first and the last:

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
    from mold_core.plugins import Plugins
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

# The version of the hooks and protocols on this page, and the oldest whose plugins still work.
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
    """Return what can render a long video stage by stage."""


@hookspec
def mold_upscalers() -> Iterable[UpscalerArchitecture]:  # type: ignore[empty-body]
    """Return the super-resolution networks this plugin can recognise and run."""


@hookspec
def mold_expanders() -> Iterable[PromptExpander]:  # type: ignore[empty-body]
    """Return what can turn a short prompt into long ones."""


@hookspec
def mold_executors() -> Iterable[Executor]:  # type: ignore[empty-body]
    """Return places where workers can live."""


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
    """Be told of a job that is done, failed or cancelled; an exception here is logged and harms nobody."""


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
    """Which image sizes a family can make. A request's size is adjusted to the nearest that obeys.

    `multiple`: width and height are rounded to it. `max_pixels` and `max_side`: larger images are scaled down,
    keeping the aspect ratio. `min_side`: neither side becomes smaller. `recommended`: sizes that come out best, for
    forms and hints. `max_side` is a multiple of `multiple`.
    """

    multiple: int = 16
    max_pixels: int = 1_800_000
    min_side: int = 16
    max_side: int | None = None
    recommended: tuple[tuple[int, int], ...] = ()


@attrs.frozen(kw_only=True)
class Sound:
    """Sound that goes with frames: float32 numpy array [channels, samples] in -1 to 1."""

    samples: NDArray[Any] = attrs.field(eq=False)
    sample_rate: int


@attrs.frozen(kw_only=True)
class Frames:
    """What a pipeline makes from one request: one image for an image, several with `fps` for a video."""

    images: tuple[Image, ...]
    fps: float | None = None
    sound: Sound | None = None


@attrs.frozen(kw_only=True)
class DecodedClip:
    """Frames of a clip, as RGB images that are decoded while they are read, and the sound that goes with them."""

    images: Iterable[Image]
    sound: Sound | None = None


@runtime_checkable
class Run(Protocol):
    """The engine's side of a running batch: the pipeline reports to it and asks it whether to go on."""

    def report(self, event: ProgressEvent) -> None:
        """Send an event to every job of the batch.

        A `Preview` goes to one of them: `index` is the number of its request among those that are computed together.
        """

    def step(self, step: int, total: int, elapsed_ms: int) -> None:
        """Report a finished denoising step (numbered from 1), then `check()`."""

    def check(self) -> None:
        """Raise CancelledError if nobody waits for the result any more. Call it between steps."""


@renamed_fields(wishes="memory_policy", room="available_bytes")
@attrs.frozen(kw_only=True)
class LoadContext:
    """Where and how a model is loaded. `device` is a torch device name; `threads` of None leaves the choice open.

    `report` receives WeightLoad and Info events while the model is read. `cache_dir` is a folder for compiled kernels
    and converted files that outlive the process. `loaders` are the weight file formats that plugins add, for
    `mold_core.weights.read_weights(path, context.loaders)`; `compile` says whether code may be compiled for speed,
    `expand_weights` whether quantised weights are made dense at once: "auto" means where the plan leaves room,
    `compute` what layers with 8-bit weights multiply, for `load_weights`, `attention` and `cuda_graphs` what to use on
    CUDA.

    `memory_policy` is what the user asked for about memory and devices, `available_bytes` what the model may take on
    each device (no entry: no limit), and `plan` how it is held in memory, for a family that returns components.
    `capabilities` are the compute capabilities of CUDA devices, by device (no entry: unknown, treated as the newest).
    `settings` are the values of the settings that plugins declare, by name.
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
    """A loaded model. It keeps no state of a request: what it caches is keyed by content and bounded."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Memory that the model takes on the device of its context now, measured, in bytes."""

    @property
    def peak_bytes(self) -> int:
        """The most that it takes on the device while it runs, in bytes. By default `size_bytes`."""
        return self.size_bytes

    @abstractmethod
    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        """Return one Frames per request, in order.

        Every request is complete: size, steps, guidance and seed are set, batch_size is 1. The same request gives the
        same pixels, alone or in a batch, up to the rounding of the device. `run.step` is called after each step.
        """

    def replan(self, plan: MemoryPlan) -> None:
        """Take a plan of the same strategy and components, for requests that are larger than those before."""
        return

    @abstractmethod
    def close(self) -> None:
        """Free the memory. The pipeline is not used again."""


class ModelFamily(Protocol):
    """A model architecture: what it can do and how one of its models is loaded."""

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
        """Return the model ready to run. Raises CheckpointError when the files are not what the family needs."""

    def components(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Sequence[ModelComponent]:
        """Return what the components of a model take in memory, in the order of use.

        The engine makes `context.plan` of it before `load`. Files that are not on this machine are measured by the
        catalog. Empty: the model is loaded as a whole, without a plan.
        """
        return ()

    def resolve_inputs(self, spec: ModelSpec, request: GenerateRequest) -> GenerateRequest:
        """Return the request with what follows from its files, such as the frames and frame rate of a video.

        Called before the defaults of the model are filled in. It also sets the steps of a model that always takes the
        same number.
        """
        return request

    def sizes_of(self, spec: ModelSpec) -> SizeRules:
        """Return the size rules of one model, where they differ from the family's."""
        return self.sizes

    def check(self, spec: ModelSpec, request: GenerateRequest) -> None:
        """Raise ValidationError, naming the field, for a complete request that the model cannot honour."""
        return

    def batch_key(self, spec: ModelSpec, request: GenerateRequest) -> Hashable:
        """Return a key: requests with equal keys may be computed together. None: the request runs alone."""
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


# --- the other kinds ---------------------------------------------------------------------------------------------


class WeightLoader(Protocol):
    """A weight file format."""

    name: str

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file is of this format, by its first 64 bytes; names are not trusted."""

    @abstractmethod
    def open(self, path: Path) -> Mapping[str, TensorSource]:
        """Return the tensors by name: what the header tells, and the numbers when they are read.

        Raises CheckpointError that names the path.
        """


class ChainRenderer(Protocol):
    """Makes the clips of a long video, each of which may go on from the one before.

    Between its two verbs a clip is a set of latents: torch tensors on the CPU by name, which mold saves, so that a
    chain that was stopped goes on from them. `before` is the clip that comes before, None where this one begins again;
    `overlap` is the number of frames that this clip has in common with the end of that one.
    `after` is the clip that goes on from this one, None where none does: what is decoded with the latents on both sides
    of a seam in view does not show it.

    `frame_stride`: clips and overlaps have a multiple of it and one frame more. `default_clip_frames`: frames of a clip
    where neither request nor model says. `max_clip_frames`: the longest clip that clients offer.
    """

    family: str
    frame_stride: int = CLIP_RULES["frame_stride"]
    default_clip_frames: int = CLIP_RULES["default_clip_frames"]
    max_clip_frames: int = CLIP_RULES["max_clip_frames"]

    @abstractmethod
    def check(self, spec: ModelSpec) -> None:
        """Raise ValidationError, naming the constraint, for a model of the family that cannot make chains."""

    def prepare(self, pipeline: Any, requests: Sequence[GenerateRequest], run: Run) -> None:
        """Compute what several clips need. Called before a clip is rendered, with its request and those to come."""
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
        """Return the latents of a clip of `request.frames` frames; the first `overlap` of them are those of `before`.

        The same arguments give the same latents, whatever was rendered in between.
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

        It may run in another thread than `render`, which may be busy with a later clip.
        """


@attrs.frozen(kw_only=True, eq=False)
class UpscalerNetwork:
    """A super-resolution network, loaded and ready, and what the tiling of images must know about it.

    `module` takes float32 [B, 3, H, W] in 0..1 on the device and returns [B, 3, H·scale, W·scale] of any float dtype;
    values may leave 0..1. It may compute in whatever dtype it likes.

    `multiple`: H and W are multiples of it, and tiles begin at multiples; images are padded. `min_side`: no smaller
    input comes. `overlap`: how many pixels of the input neighbouring tiles share. `feather`: across how many of these,
    in the middle, one tile fades into the other; the rest is only context. Overlap less feather, halved, is best as
    wide as the network looks around a pixel. `tile`: the side of a tile that suits it. `bytes_per_pixel`: memory at
    work for each pixel of the input, at its highest. `size_bytes`: the weights in memory.
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
        """Say whether a file's tensors, by name and shape, are a network of this architecture. Nothing is read."""

    @abstractmethod
    def load(self, tensors: Mapping[str, TensorSource], context: LoadContext) -> UpscalerNetwork:
        """Return the network on the device of `context`. Raises CheckpointError for what is not as it must be."""


@attrs.frozen(kw_only=True)
class Expansion:
    """What an expander is asked for: `variations` full prompts for a short one, fit for a model family.

    `backend` is what the settings, or the model the prompts are for, name as the expander: a word, an address, a model.
    """

    prompt: str
    family: str
    variations: int
    seed: int
    backend: str


@attrs.frozen(kw_only=True)
class ExpandContext:
    """What an expander has at hand: the settings, the catalog, and the device that it may use.

    `resolve` gives the model that a name means, or raises UnknownModelError; `locate` gives its files, or raises
    ModelNotFoundError where they are not here. `loaders` are the weight
    file formats that plugins add. `check` is called with the device "cpu", whatever the device of the work will be.
    """

    settings: Settings
    models: Mapping[str, ModelSpec]
    resolve: Callable[[str], ModelSpec]
    locate: Callable[[ModelSpec], LocalFiles]
    device: str = "cpu"
    threads: int | None = None
    loaders: tuple[WeightLoader, ...] = ()


class PromptExpander(Protocol):
    """Turns a short prompt into full ones. `name` is what MOLD_EXPAND_BACKEND calls it by."""

    name: str

    model_families: frozenset[str] = frozenset()
    """Families of the catalog entries that are its language models."""

    @abstractmethod
    def expand(self, expansion: Expansion, context: ExpandContext, run: Run) -> Sequence[str]:
        """Return `expansion.variations` prompts, none blank; the same expansion gives the same prompts.

        Called on a worker: `run.check()` now and then lets the job be cancelled, and what was loaded is freed before
        this returns. Raises InferenceError where it fails.
        """

    def takes(self, backend: str, context: ExpandContext) -> bool:
        """Say whether a backend other than its name is its own."""
        return False

    def check(self, expansion: Expansion, context: ExpandContext) -> None:
        """Raise ValidationError, before the job is queued, for what cannot work: a language model that is missing."""
        return

    def size_bytes(self, expansion: Expansion, context: ExpandContext) -> int:
        """Return the memory that it takes meanwhile, in bytes; the worker frees as much."""
        return 0


class Worker(Protocol):
    """Runs models on one device. Its verbs are called from one thread at a time.

    A verb raises WorkerError when the worker died; its jobs are then run again once.
    """

    on_death: Callable[[], object] | None = None
    """Set by the engine; to be called when the worker dies while no verb runs."""

    @property
    def alive(self) -> bool:
        """False once it has died: it is closed, and another is started."""
        return True

    @abstractmethod
    def loaded(self) -> frozenset[str]:
        """Return the full names of the models in memory."""

    @abstractmethod
    def load(self, spec: ModelSpec, run: Run) -> None:
        """Bring a model into memory."""

    @abstractmethod
    def unload(self, name: str | None = None) -> tuple[str, ...]:
        """Drop one model, or all; return the names that were dropped."""

    @abstractmethod
    def run(self, task: Any, run: Run) -> Any:
        """Run a task (`mold_core.jobs.task.WorkerTask`, picklable) where the models are, and return its result."""

    def device_info(self) -> DeviceInfo | None:
        """Return the name and memory of the device without waiting; None where it cannot tell."""
        return None

    def kill(self) -> bool:
        """End at once what the worker is doing, when it does not stop for closing; return False if it cannot."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Free everything."""


class Executor(Protocol):
    """A place where workers live: this process, a process per device, a cluster."""

    name: str

    @abstractmethod
    def start(self, device: str, settings: Settings, plugins: Plugins) -> Worker:
        """Return a worker for a device (a torch device name)."""


def __getattr__(name: str) -> Any:
    return old_name("mold_core.hookspecs", name)
