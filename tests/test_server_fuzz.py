"""The API's own description, sent back at it by schemathesis: no answer outside of what it describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from server_case import Case, running

from anomaly.edge.server import attempts
from anomaly.edge.server.accounts import SCOPES

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
#: Ends only with its client; test_server_live.py has it.
ENDLESS = "/api/cameras/{camera}/live.mjpeg"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with running(tmp_path_factory.mktemp("fuzz")) as one:
        one.runner.show("cam")
        event = one.event(clip="clips/a.mp4", clip_state="ready")
        (one.store.folder / "clips" / "a.mp4").write_bytes(b"a clip")
        one.store.add_verdict(event.id, "real", "somebody")
        one.store.add_scores("cam", [(float(t), float(t), 1.0, 1.0) for t in range(100)])
        yield one


def operations(case: Case, program: httpx.Client) -> list[Any]:
    schema = schemathesis.openapi.from_dict(program.get("/api/openapi.json").json())
    return [one.ok() for one in schema.get_all_operations() if one.ok().path != ENDLESS]


def fuzz(case: Case, examples: int) -> dict[str, set[int]]:
    """Send so many made-up requests to each operation; the statuses that came."""
    program = case.token("admin", *SCOPES)
    return {one.label: fuzz_operation(case, program, one, examples) for one in operations(case, program)}


def fuzz_operation(case: Case, program: httpx.Client, operation: Any, examples: int) -> set[int]:
    seen = set()
    headers = {"Authorization": program.headers["Authorization"]}

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(request=operation.as_strategy())
    def send(request: Any) -> None:
        # The name of a camera that exists is not to be guessed.
        if len(request.path_parameters.get("camera", "")) % 2:
            request.path_parameters["camera"] = "cam"
        answer = request.call(base_url=case.url, headers=headers)
        seen.add(answer.status_code)
        request.validate_response(answer, checks=CHECKS)

    send()
    return seen


def test_a_few_made_up_requests_to_each_operation(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attempts, "PER_ADDRESS", 3)
    statuses = fuzz(case, 4)
    assert len(statuses) > 30
    every = set.union(*statuses.values())
    assert {200, 404} <= every
    assert not {401, 403} & set.union(*(seen for name, seen in statuses.items() if "session" not in name))


@pytest.mark.slow
def test_many_made_up_requests_to_each_operation(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attempts, "PER_ADDRESS", 3)
    assert len(fuzz(case, 200)) > 30
