"""A sign-off of the detector rests on the last run of the DAG with the settings in use, and on nothing tried beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from comporta.gates.evidence import _KINDS, Sources
from comporta.gates.gate import EvidenceItem
from comporta.ledger import Event, EventType


class Book:
    """A ledger of some events, oldest first."""

    def __init__(self, *events: Event) -> None:
        self.events = events

    def latest(self, limit: int, *, event_type: str) -> list[Event]:
        return [event for event in self.events if event.event_type == event_type][-limit:]


def finished(number: int, run: str, actor: str = "airflow:scheduler", **payload: Any) -> Event:
    return Event(
        id=number, stream=f"backtest/{run}", version=1, feature="detector", event_type=EventType.BACKTEST_FINISHED,
        workflow="backtest", phase=None, payload={"verdict": "FAIL", "report": f"{run}.html", **payload}, actor=actor,
        timestamp=datetime(2026, 11, 30, tzinfo=UTC), idempotency_key=None,
    )  # fmt: skip


def evidence(*events: Event) -> EvidenceItem:
    book: Any = Book(*events)
    nothing: Any = None
    return _KINDS["backtest"](Sources(nothing, nothing, book))


DAILY = finished(1, "daily")


@pytest.mark.parametrize(
    "beside",
    [finished(2, "cli-1", actor="cli:po"), finished(2, "daily-tuned", tuned=True)],
    ids=["a try at the terminal", "what tuning chose"],
)
def test_what_was_tried_beside_the_daily_run_changes_no_evidence(beside: Event) -> None:
    assert evidence(DAILY, beside) == evidence(DAILY)
    assert evidence(DAILY).link == "daily.html"


def test_the_next_daily_run_is_other_evidence() -> None:
    assert evidence(DAILY, finished(2, "next")).digest != evidence(DAILY).digest


def test_without_a_backtest_the_evidence_says_so() -> None:
    assert evidence().detail == "no report"
