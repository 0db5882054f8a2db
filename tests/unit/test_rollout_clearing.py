"""Clear to roll back: every way in which Airflow runs a rollback task, played against the ledger's fold, without Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comporta.ledger.event import Event, EventType
from comporta.rollout.clearing import Clear, Decision, decide
from comporta.rollout.standing import Board, State

TARGET = "1/catalogue"
RUN = "rollout/r1"


@dataclass
class Play:
    """One change in one run: what its tasks would record, and how often its rollback task was cleared."""

    recorded: bool = True  # whether the API server sees clears
    events: list[Event] = field(default_factory=list)
    cycle: int = 0
    clear: Clear | None = None
    done: list[str] = field(default_factory=list)

    def add(self, event_type: EventType, actor: str = "airflow:dba", run: str = RUN, **payload: Any) -> int:
        at = datetime(2026, 11, 24, 12, tzinfo=UTC)
        number = len(self.events) + 1
        self.events.append(
            Event(
                id=number,
                stream="rollout/r",
                version=number,
                feature="r",
                event_type=event_type,
                workflow="rollout",
                phase="OPT1",
                payload={"run": run, "target": TARGET, **payload},
                actor=actor,
                timestamp=at,
                idempotency_key=None,
            )
        )
        return number

    @property
    def board(self) -> Board:
        return Board.fold(self.events, ["OPT1", "OPT2"], TARGET)

    @property
    def state(self) -> State:
        return self.board["OPT1"].state

    def forward(self, *, verifies: bool = True, well: bool = True, run: str = RUN) -> None:
        """apply, verify, watch, as far as they go."""
        if self.board["OPT1"].whole:
            self.add(EventType.ROLLOUT_APPLY_FINISHED, run=run, already=True)
        else:
            self.add(EventType.ROLLOUT_APPLY_STARTED, run=run)
            self.add(EventType.ROLLOUT_APPLY_FINISHED, run=run)
        if not verifies:
            self.add(EventType.ROLLOUT_VERIFY_FAILED, run=run, error="3 rows are missing")
            return
        self.add(EventType.ROLLOUT_VERIFY_PASSED, run=run)
        self.add(EventType.ROLLOUT_WATCH_STARTED, run=run)
        self.add(EventType.ROLLOUT_WATCH_PASSED if well else EventType.ROLLOUT_WATCH_FAILED, run=run, reasons=["p95"])

    def run_rollback(self, *, dies: bool = False, run: str = RUN) -> Decision:
        """The task ``rollback`` runs; ``dies`` after it recorded what it was about to do."""
        decision = decide(self.board["OPT1"], run=run, cycle=self.cycle, clear=self.clear)
        if decision.kind == "arm":
            self.add(EventType.ROLLBACK_ARMED, forward=self.board["OPT1"].forward, cycle=self.cycle)
        if decision.kind == "roll back":
            self.add(EventType.ROLLBACK_STARTED, why=decision.why, because=decision.because)
            if not dies:
                self.add(EventType.ROLLBACK_FINISHED)
        self.done.append(decision.kind)
        return decision

    def cleared(self, *, alone: bool) -> None:
        """Somebody clears the rollback task, alone or with what comes before it."""
        self.cycle += 1
        if self.recorded:
            number = self.add(EventType.TASK_CLEARED, "ana", tasks=[])
            self.clear = Clear(number, "ana", "second thoughts", alone)


@pytest.fixture(params=[True, False], ids=["clears on record", "clears not on record"])
def play(request: pytest.FixtureRequest) -> Play:
    return Play(recorded=request.param)


def test_a_green_change_is_armed_and_stays(play: Play) -> None:
    play.forward()
    assert play.run_rollback().kind == "arm"
    assert play.state == State.IN_PLACE


def test_a_clear_of_the_armed_task_rolls_back_and_a_second_one_finds_nothing(play: Play) -> None:
    play.forward()
    play.run_rollback()
    play.cleared(alone=True)
    decision = play.run_rollback()
    assert (decision.kind, decision.why) == ("roll back", "cleared")
    assert ("ana cleared the task: second thoughts" in decision.because) == play.recorded
    play.cleared(alone=True)
    assert play.run_rollback().kind == "nothing"


def test_a_worker_that_dies_between_arming_and_skipping_is_no_clear(play: Play) -> None:
    play.forward()
    play.run_rollback()
    assert play.run_rollback().kind == "armed"
    assert play.state == State.IN_PLACE


def test_clearing_the_whole_run_arms_anew_and_the_next_clear_rolls_back(play: Play) -> None:
    play.forward()
    play.run_rollback()
    play.cleared(alone=False)
    play.forward()
    assert play.run_rollback().kind == "arm"
    play.cleared(alone=True)
    assert play.run_rollback().kind == "roll back"


def test_a_change_that_does_not_verify_goes_by_itself(play: Play) -> None:
    play.forward(verifies=False)
    decision = play.run_rollback()
    assert (decision.kind, decision.why) == ("roll back", "automatic")
    assert "does not verify: 3 rows are missing" in decision.because


def test_a_change_under_which_the_target_is_unwell_goes_by_itself(play: Play) -> None:
    play.forward(well=False)
    assert play.run_rollback().because == "OPT1 is unwell: p95"


@pytest.mark.parametrize(
    "last",
    [EventType.ROLLOUT_APPLY_STARTED, EventType.ROLLOUT_APPLY_FAILED, EventType.ROLLOUT_WATCH_STARTED],
)
def test_a_step_that_was_cut_or_marked_by_hand_counts_as_what_the_ledger_says(play: Play, last: EventType) -> None:
    play.add(EventType.ROLLOUT_APPLY_STARTED)
    play.add(last)
    assert play.run_rollback().kind == "roll back"


def test_a_rollback_that_was_cut_goes_on_with_the_reason_that_it_had(play: Play) -> None:
    play.forward()
    play.run_rollback()
    play.cleared(alone=True)
    play.run_rollback(dies=True)
    assert play.state == State.ROLLING_BACK
    decision = play.run_rollback()
    assert (decision.kind, decision.why) == ("roll back", "cleared")


def test_the_task_of_an_older_run_leaves_a_change_alone_that_a_newer_run_applied(play: Play) -> None:
    play.forward()
    play.run_rollback()
    play.forward(run="rollout/r2")
    play.cleared(alone=True)
    decision = play.run_rollback()
    assert decision.kind == "nothing"
    assert "applied again by rollout/r2" in decision.because


def test_a_change_that_was_never_applied_has_nothing_to_roll_back(play: Play) -> None:
    assert play.run_rollback().kind == "nothing"


def test_a_change_applied_again_after_a_rollback_is_armed_again(play: Play) -> None:
    play.forward()
    play.run_rollback()
    play.cleared(alone=True)
    play.run_rollback()
    play.cleared(alone=False)
    play.forward()
    assert play.run_rollback().kind == "arm"
    assert play.state == State.IN_PLACE


def test_apply_cleared_alone_then_rollback_cleared_rolls_back_at_once_when_clears_are_on_record() -> None:
    play = Play()
    play.forward()
    play.run_rollback()
    play.add(EventType.ROLLOUT_APPLY_FINISHED, already=True)
    play.cleared(alone=True)
    assert play.run_rollback().kind == "roll back"


def test_a_run_that_was_cleared_and_whose_apply_is_refused_rolls_nothing_back(play: Play) -> None:
    play.forward()
    play.run_rollback()
    play.cleared(alone=False)
    play.add(EventType.ROLLOUT_REFUSED, step="apply", reasons=["the Go was in force until yesterday"])
    assert play.run_rollback().kind == "arm"
    assert play.run_rollback().kind == "armed"
    play.cleared(alone=True)
    assert play.run_rollback().kind == "roll back"


def test_a_run_that_was_cleared_and_whose_apply_never_ran_rolls_nothing_back_where_clears_are_on_record() -> None:
    play = Play()
    play.forward()
    play.run_rollback()
    play.cleared(alone=False)
    assert play.run_rollback().kind == "arm"
    assert play.run_rollback().kind == "armed"


def test_events_of_another_target_say_nothing() -> None:
    play = Play()
    play.add(EventType.ROLLOUT_APPLY_STARTED)
    assert Board.fold(play.events, ["OPT1"], "2/elsewhere")["OPT1"].state == State.ABSENT


STEPS = st.lists(
    st.sampled_from(["forward", "bad verify", "unwell", "retry", "clear alone", "clear all", "refused", "by hand"]),
    max_size=12,
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(steps=STEPS, recorded=st.booleans())
def test_nothing_but_a_failure_or_a_persons_clear_rolls_back(steps: list[str], recorded: bool) -> None:
    play = Play(recorded=recorded)
    for step in steps:
        before: Mapping[str, Any] = {"state": play.state, "forward": play.board["OPT1"].forward}
        match step:
            case "forward":
                play.cycle += 1  # whoever runs a step again has cleared it with all that follows
                play.forward()
                assert play.run_rollback().kind == "arm"
            case "bad verify":
                play.forward(verifies=False)
                assert play.run_rollback().kind == "roll back"
            case "unwell":
                play.forward(well=False)
                assert play.run_rollback().kind == "roll back"
            case "retry":
                found = play.run_rollback()
                assert found.kind in ("nothing", "armed", "arm")
                assert play.state == before["state"]
            case "clear alone":
                play.cleared(alone=True)
                was = before["state"]
                expected = "roll back" if was == State.IN_PLACE else "nothing"
                assert play.run_rollback().kind == expected
            case "clear all":
                play.cleared(alone=False)
                play.forward()
                assert play.run_rollback().kind == "arm"
            case "refused":
                play.cleared(alone=False)
                play.add(EventType.ROLLOUT_REFUSED, step="apply", reasons=["no Go"])
                assert play.run_rollback().kind in ("arm", "nothing")
                assert play.state == before["state"]
            case "by hand":
                if play.board["OPT1"].on_target:
                    play.add(EventType.ROLLOUT_CHANGE_FOUND, found="absent", explains="as before")
                assert play.run_rollback().kind == "nothing"
        assert play.state in (State.IN_PLACE, State.ROLLED_BACK, State.ABSENT)
