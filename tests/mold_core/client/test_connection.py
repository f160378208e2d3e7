"""Addresses of servers, errors from envelopes, events from the wire."""

from __future__ import annotations

import json

import pytest

from mold_core import Client, DenoiseStep, Preview, SettingsError, StageStart, UnreachableError
from mold_core.client import server_address
from mold_core.client.envelopes import error_of
from mold_core.errors import (
    CancelledError,
    MoldError,
    ServerError,
    ValidationError,
    WorkerError,
)
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.wire import ChainStageStart, GenerateResponse
from mold_core.wire.events import event_from_json, event_to_json


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("gpu-box", "http://gpu-box:7680"),
        ("gpu-box:80", "http://gpu-box:80"),
        (" 10.0.0.5 ", "http://10.0.0.5:7680"),
        ("[::1]:7000", "http://[::1]:7000"),
        ("::1", "http://[::1]:7680"),
        ("[::1]", "http://[::1]:7680"),
        ("0:0:0:0:0:0:0:1", "http://[::1]:7680"),
        ("http://[::1]:7680/", "http://[::1]:7680"),
        ("::", "http://[::1]:7680"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:7680"),
        ("[fe80::1%25eth0]:80", "http://[fe80::1%eth0]:80"),
        ("https://mold.example/", "https://mold.example"),
        ("http://mold.example/below/", "http://mold.example/below"),
    ],
)
def test_a_name_becomes_an_address(host: str, address: str) -> None:
    assert server_address(host) == address


@pytest.mark.parametrize("host", ["", "ftp://gpu-box", "http://", "two words", "gpu-box:port", "gpu-box:99999", "bö"])
def test_what_is_no_address_is_said(host: str) -> None:
    with pytest.raises(SettingsError, match="is not a server address"):
        server_address(host)


def test_a_code_becomes_the_class_that_the_engine_raised() -> None:
    for cls in (ValidationError, CancelledError, WorkerError, MoldError):
        error = error_of(cls.code, "words")
        assert (type(error), str(error), error.exit_status) == (cls, "words", cls.exit_status)


def test_a_code_of_the_server_alone_is_kept() -> None:
    error = error_of("RATE_LIMITED", "rate limit exceeded")
    assert isinstance(error, ServerError)
    assert (error.code, error.exit_status, ServerError.code) == ("RATE_LIMITED", 1, "SERVER_ERROR")


@pytest.mark.parametrize(
    "event",
    [
        StageStart(name="decoding"),
        ChainStageStart(stage_idx=1),
        DenoiseStep(step=1, total=4, elapsed_ms=3),
        Preview(step=1, total=4, image=b"\xff\xd8"),
    ],
)
def test_an_event_comes_back_from_the_wire_as_it_went(event: object) -> None:
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event  # type: ignore[arg-type]


def test_an_event_of_a_newer_server_is_passed_over_and_a_broken_one_is_not() -> None:
    assert event_from_json({"type": "weather", "sun": True}) is None
    with pytest.raises(ValidationError, match="elapsed_ms"):
        event_from_json({"type": "denoise_step", "step": 1})


def test_a_video_stands_in_the_flat_fields() -> None:
    data = {"image": "AAAA", "format": "mp4", "width": 8, "height": 4, "video_frames": 9, "video_fps": 24, "images": []}
    about = {"generation_time_ms": 1, "model": "m:v1", "seed_used": 2}
    response: GenerateResponse = JOB_KINDS["generate"].result_of({**data, **about})
    assert response.video is not None
    assert (response.video.data, response.video.frames, response.video.width) == (bytes(3), 9, 8)


def test_where_nothing_listens_is_told_from_other_trouble() -> None:
    with pytest.raises(UnreachableError, match="there is no server at") as refused:
        Client("127.0.0.1:9", "").health()
    assert refused.value.refused
    with pytest.raises(UnreachableError, match="cannot be reached") as unknown:
        Client("name.invalid", "").health()
    assert not unknown.value.refused
