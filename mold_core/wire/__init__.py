"""Requests, responses and progress events: the data that callers and engines exchange, and its JSON form."""

from mold_core.wire.chain import (
    MAX_STAGES,
    ChainDenoiseStep,
    ChainEvent,
    ChainRequest,
    ChainResponse,
    ChainStage,
    ChainStageDone,
    ChainStageStart,
    ChainStart,
    Stitching,
)
from mold_core.wire.events import (
    CacheHit,
    DenoiseStep,
    DownloadDone,
    DownloadProgress,
    Info,
    Preview,
    ProgressEvent,
    PullComplete,
    Queued,
    StageDone,
    StageStart,
    WeightLoad,
    event_type,
)
from mold_core.wire.expand import ExpandRequest, ExpandResponse
from mold_core.wire.generate import OUTPUT_FORMATS, GenerateRequest, GenerateResponse, ImageData, LoraWeight
from mold_core.wire.parameters import ParameterInfo
from mold_core.wire.placement import AdvancedPlacement, DevicePlacement, DeviceRef
from mold_core.wire.pull import PullRequest, PullResponse
from mold_core.wire.request import Request
from mold_core.wire.upscale import UpscaleRequest, UpscaleResponse
from mold_core.wire.video import Keyframe, TimeRange, VideoData

__all__ = [
    "MAX_STAGES",
    "OUTPUT_FORMATS",
    "AdvancedPlacement",
    "CacheHit",
    "ChainDenoiseStep",
    "ChainEvent",
    "ChainRequest",
    "ChainResponse",
    "ChainStage",
    "ChainStageDone",
    "ChainStageStart",
    "ChainStart",
    "DenoiseStep",
    "DevicePlacement",
    "DeviceRef",
    "DownloadDone",
    "DownloadProgress",
    "ExpandRequest",
    "ExpandResponse",
    "GenerateRequest",
    "GenerateResponse",
    "ImageData",
    "Info",
    "Keyframe",
    "LoraWeight",
    "ParameterInfo",
    "Preview",
    "ProgressEvent",
    "PullComplete",
    "PullRequest",
    "PullResponse",
    "Queued",
    "Request",
    "StageDone",
    "StageStart",
    "Stitching",
    "TimeRange",
    "UpscaleRequest",
    "UpscaleResponse",
    "VideoData",
    "WeightLoad",
    "event_type",
]
