"""The OpenAPI document keeps its word: requests made from it get no answer that it does not tell of."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import schemathesis
from http_server import Server, serving
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import FailureGroup

from mold_core.plugins import load_plugins
from mold_http.openapi import document
from mold_http.plugin_routes import all_routes

KEY = "a-key"
LISTED = tuple(route for route in all_routes(load_plugins()) if route.listed)

# What would end the server, or never ends by itself.
LEFT_OUT = {"shutdown", "stream_downloads", "stream_resources", "server_events", "pause_queue"}
LEFT_OUT |= {"mcp"}  # the SDK responds to malformed messages as JSON-RPC has it

OPERATIONS = [route.name for route in LISTED if route.name not in LEFT_OUT]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for a key and makes small images only, or none."""
    with serving(tmp_path_factory.mktemp("judged") / "home", MOLD_API_KEY=KEY, MOLD_QUEUE_SIZE="20") as running:
        yield running


def examine(server: Server, name: str, cases: int) -> int:
    """Ask one operation so many questions, right and wrong ones; return how many were asked."""
    load_all_checks()
    checks = schemathesis.checks.CHECKS.get_by_names(
        [
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_headers_conformance",
            "response_schema_conformance",
        ]
    )
    schema = schemathesis.openapi.from_dict(document(LISTED))
    schema.config.update(base_url=f"http://127.0.0.1:{server.port}")
    operation = schema.find_operation_by_id(name)
    asked = 0

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def judge(case: schemathesis.Case) -> None:
        nonlocal asked
        asked += 1
        _keep_small(case)
        case.headers["X-Api-Key"] = KEY
        response = case.call(timeout=120)
        case.validate_response(response, checks=checks)

    strategy = operation.as_strategy(schemathesis.GenerationMode.POSITIVE) | operation.as_strategy(
        schemathesis.GenerationMode.NEGATIVE
    )
    from hypothesis import given

    try:
        given(case=strategy)(judge)()
    except FailureGroup as group:
        raise AssertionError("\n".join(str(failure) for failure in group.exceptions)) from None
    return asked


# Fields that make work, and the most that is asked for.
_MOST = {"steps": 1, "batch_size": 2, "n": 2, "width": 64, "height": 64, "n_iter": 1}
_MOST |= {"hr_scale": 1, "hr_resize_x": 64, "hr_resize_y": 64, "hr_second_pass_steps": 1}


def _keep_small(case: schemathesis.Case) -> None:
    """Let no question take minutes: what is asked for is small where it is asked for at all."""
    body = case.body
    if not isinstance(body, dict):
        return
    inner = body.get("request")
    for wish in (body, inner):
        if isinstance(wish, dict) and isinstance(wish.get("prompt"), str):
            for name, most in _MOST.items():
                if name in wish and isinstance(wish[name], int | float) and wish[name] > most:
                    wish[name] = most
            wish.setdefault("steps", 1)
            wish.setdefault("width", 32)


# Operations whose bodies take long to write, and are those of others.
_CASES = {"a1111_post_txt2img": 2, "estimate": 2, "validate_chain": 2}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_answers_as_the_document_says(judged: Server, name: str) -> None:
    assert examine(judged, name, _CASES.get(name, 8)) > 0
    assert judged.process.poll() is None


@pytest.mark.soak
def test_two_thousand_questions_get_no_answer_that_was_not_told_of(judged: Server) -> None:
    cases = int(os.environ.get("CASES", "60"))
    asked = sum(examine(judged, name, cases) for name in OPERATIONS)
    print(f"{asked} questions")
    assert asked >= 2000
