"""What stands between people and Airflow's Required Actions: early answers wait, forms show what is asked now."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from comporta.orchestration.early_answers import HoldEarlyAnswers, Parked
from comporta.orchestration.fresh_forms import FreshForms

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
TI = UUID("01a20dd2-2c1f-7966-bd3d-1d3fe7edc2eb")


class App:
    """The application behind: keeps what reached it, and answers with ``status``."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - the shape of ASGI
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def request(app: Any, method: str, path: str, *parts: bytes) -> list[Any]:
    """Send one request in as many parts, and return what was sent back."""
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "method": method, "path": path}, receive, send))
    return sent


@pytest.mark.parametrize(
    ("state", "age_s", "rest_s"),
    [
        ("deferred", 1.0, 2.0),
        ("deferred", 3.0, 0.0),
        ("awaiting_input", 0.5, 2.5),
        ("running", 0.0, None),
        ("queued", 9.0, None),
        ("success", 0.1, 0.0),
        (None, 0.0, 0.0),
    ],
    ids=["just parked", "settled", "stock operator", "about to park", "about to run", "over", "unknown task"],
)
def test_an_answer_waits_until_the_parking_has_settled(state: str | None, age_s: float, rest_s: float | None) -> None:
    assert Parked(state, NOW - timedelta(seconds=age_s)).settles_in_s(NOW) == rest_s


def test_an_early_answer_reaches_airflow_after_the_task_has_settled() -> None:
    looks = [Parked("running", None), Parked("deferred", datetime(2020, 1, 1, tzinfo=UTC))]
    asked: list[tuple[str, str, str, int]] = []

    def look(*task: Any) -> Parked:
        asked.append(task)
        return looks.pop(0)

    app = App()
    path = "/api/v2/dags/daily_sync/dagRuns/manual__2026-11-24T10:00:00+00:00/taskInstances/OPT1.gate/2/hitlDetails"
    request(HoldEarlyAnswers(app, look), "PATCH", path, b"{}")
    assert asked == [("daily_sync", "manual__2026-11-24T10:00:00+00:00", "OPT1.gate", 2)] * 2
    assert app.bodies == [b"{}"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/v2/dags/d/dagRuns/r/taskInstances/t/-1/hitlDetails"), ("PATCH", "/api/v2/dags/d")],
    ids=["reading a form", "another request"],
)
def test_everything_else_passes_untouched(method: str, path: str) -> None:
    def look(*task: Any) -> Parked:
        raise AssertionError(f"looked at {task}")

    app = App()
    request(HoldEarlyAnswers(app, look), method, path, b"x")
    assert app.bodies == [b"x"]


def test_a_form_is_drawn_with_what_the_task_asks_now() -> None:
    drawn: list[tuple[UUID, Any]] = []
    asked = {
        "ti_id": str(TI),
        "subject": "May it?",
        "body": "new",
        "params": {"a": 1},
        "options": ["Go"],
        "defaults": None,
    }
    content = json.dumps(asked).encode()
    app = App(201)
    request(
        FreshForms(app, lambda *form: drawn.append(form)),
        "POST",
        f"/execution/hitlDetails/{TI}",
        content[:9],
        content[9:],
    )
    assert drawn == [(TI, {"subject": "May it?", "body": "new", "params": {"a": 1}, "options": ["Go"]})]
    assert app.bodies == [content]


def test_a_form_that_airflow_refused_is_not_drawn() -> None:
    drawn: list[Any] = []
    request(FreshForms(App(404), lambda *form: drawn.append(form)), "POST", f"/execution/hitlDetails/{TI}", b"{}")
    assert drawn == []


def test_a_form_that_cannot_be_drawn_does_not_keep_the_task_from_asking() -> None:
    def fail(*form: Any) -> None:
        raise RuntimeError("no database")

    sent = request(FreshForms(App(201), fail), "POST", f"/execution/hitlDetails/{TI}", b'{"subject": "x"}')
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
