"""The events of a rollout's report are found in the ledger, wherever they are: with its gate, its clears and its health."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.postgres.gate_desk import ONE, Desk, open_desk

from comporta.health import BreakerBook
from comporta.ledger import Ledger, NewEvent
from comporta.rollout.report_events import events_of

RELEASE = "catalogue"
RUN = "rollout/manual__1"


@pytest.fixture
def desk(control: str) -> Iterator[Desk]:
    with open_desk(control) as made:
        yield made


def tell(control: str, stream: str, event_type: str, phase: str | None = None, **payload: Any) -> int:
    with Ledger(control) as ledger:
        event = NewEvent(event_type=event_type, feature=RELEASE, phase=phase, actor="po", payload=payload)
        return ledger.append(stream, [event])[0]


def found(control: str) -> list[str]:
    with Ledger(control) as ledger:
        events = events_of(ledger, RELEASE, RUN)
    assert [event.id for event in events] == sorted(event.id for event in events)
    return [f"{event.stream} {event.event_type}" for event in events]


def test_a_run_brings_its_own_gate_its_clears_and_the_health_of_its_release(desk: Desk, control: str) -> None:
    gate = desk.open("k1", policy=ONE, asker=f"{RUN}/gate/-1")
    desk.open("k2", policy=ONE, asker="rollout/other/gate/-1")
    desk.vote(gate, "po")
    tell(control, f"rollout/{RELEASE}", "rollout_preflighted", "preflight", run=RUN)
    with BreakerBook(control) as book:
        book.hold(RELEASE, "disk", actor="dba", reason="it smells")
        book.hold("another", "disk", actor="dba", reason="it smells")
    tell(control, f"cleared/{RUN}", "task_cleared", tasks=["OPT1.rollback"])
    tell(control, "cleared/rollout/other", "task_cleared")
    assert found(control) == [
        "gate/k1 gate_opened",
        "gate/k1 gate_vote_cast",
        "gate/k1 gate_decided",
        f"rollout/{RELEASE} rollout_preflighted",
        f"health/{RELEASE} breaker_held",
        f"cleared/{RUN} task_cleared",
    ]


def test_a_gate_of_the_daily_sync_is_found_by_what_was_applied_on_it(desk: Desk, control: str) -> None:
    gate = desk.open("k1", policy=ONE, asker="daily_sync/monday/rollout/-1")
    tell(control, f"rollout/{RELEASE}", "rollout_apply_started", "OPT1", run=RUN, gate=gate.gate)
    assert found(control) == ["gate/k1 gate_opened", f"rollout/{RELEASE} rollout_apply_started"]


def test_what_is_called_a_gate_and_is_none_is_left_out(desk: Desk, control: str) -> None:
    other = tell(control, "drill/x", "drill_finished")
    for number in (other, 10_000, None, "four"):
        tell(control, f"rollout/{RELEASE}", "rollout_apply_started", "OPT1", run=RUN, gate=number)
    assert set(found(control)) == {f"rollout/{RELEASE} rollout_apply_started"}


def test_runs_before_are_folded_and_who_cleared_them_is_left_out(desk: Desk, control: str) -> None:
    tell(control, f"rollout/{RELEASE}", "rollout_apply_finished", "OPT1", run="rollout/first")
    tell(control, "cleared/rollout/first", "task_cleared")
    tell(control, f"rollout/{RELEASE}", "rollout_preflighted", "preflight", run=RUN)
    tell(control, f"rollout/{RELEASE}", "rollback_started", "OPT1", run="rollback/later")
    tell(control, "cleared/rollback/later", "task_cleared")
    assert found(control) == [
        f"rollout/{RELEASE} rollout_apply_finished",
        f"rollout/{RELEASE} rollout_preflighted",
        f"rollout/{RELEASE} rollback_started",
        "cleared/rollback/later task_cleared",
    ]


def test_a_ledger_without_the_run_gives_nothing(desk: Desk, control: str) -> None:
    assert found(control) == []
