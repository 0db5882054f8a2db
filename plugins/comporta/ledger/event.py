"""Events: frozen facts in the past tense, and the catalogue of their types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import reduce
from typing import Any, TypeVar

from comporta.ledger.errors import LedgerError, UnknownEventType

S = TypeVar("S")


class EventType(StrEnum):
    """Every type of event that may be written. A meaning never changes once written: a new meaning is a new name."""

    # STAGE 2, stream "dry_run/<run id>": feature = release, workflow = "stage2", phase = change or step.
    DRY_RUN_STARTED = "dry_run_started"
    PREFLIGHT_FINISHED = "preflight_finished"
    CLONE_MADE = "clone_made"
    CHANGE_APPLIED = "change_applied"
    CHANGE_VERIFIED = "change_verified"
    CHANGE_MEASURED = "change_measured"
    CHANGE_FAILED = "change_failed"
    DRY_RUN_FINISHED = "dry_run_finished"
    # STAGE 3, stream "rollback_validation/<run id>": feature = release, workflow = "stage3", phase = "subject/scenario".
    VALIDATION_STARTED = "validation_started"
    PROOF_RECORDED = "proof_recorded"
    VALIDATION_FINISHED = "validation_finished"
    # STAGE 4, stream "capacity/<run id>": feature = release, workflow = "stage4", phase = rung, or the change compared.
    CAPACITY_STARTED = "capacity_started"
    RUNG_MEASURED = "rung_measured"
    LADDER_STOPPED = "ladder_stopped"
    CAPACITY_PLANNED = "capacity_planned"
    CALIBRATED = "calibrated"
    # The detector's backtest, stream "backtest/<run id>": feature = "detector", workflow = "backtest", phase = step.
    BACKTEST_STARTED = "backtest_started"
    BACKTEST_GUARD_FAILED = "backtest_guard_failed"
    BACKTEST_FINISHED = "backtest_finished"
    BACKTEST_TUNED = "backtest_tuned"
    BACKTEST_VALIDATED = "backtest_validated"
    # Failover drills, stream "drill/<name>": feature = component, workflow = "drill".
    DRILL_FINISHED = "drill_finished"
    # The daily sync, stream "daily_sync/<run id>": feature = release, workflow = "daily_sync".
    SYNC_OPENED = "sync_opened"
    BLOCKERS_CHECKED = "blockers_checked"
    MINUTES_WRITTEN = "minutes_written"
    # Mail, stream "mail/<event>/<login>": feature = that of the event, workflow = "mail", phase = what it tells.
    MAIL_SENT = "mail_sent"
    MAIL_FAILED = "mail_failed"
    # Gates, stream "gate/<key>": feature = release, workflow = "gate", phase = the gate's name. Written by comporta.gate_* only.
    GATE_OPENED = "gate_opened"
    GATE_EVIDENCE_CHANGED = "gate_evidence_changed"
    GATE_VOTE_CAST = "gate_vote_cast"
    GATE_VOTE_REVOKED = "gate_vote_revoked"
    GATE_VOTE_REFUSED = "gate_vote_refused"
    GATE_DECIDED = "gate_decided"
    GATE_REOPENED = "gate_reopened"
    GATE_CONSUMED = "gate_consumed"
    GATE_EXPIRED = "gate_expired"
    GATE_REMINDED = "gate_reminded"
    GATE_WITHDRAWN = "gate_withdrawn"
    # Rollout in production, stream "rollout/<release>": feature = release, workflow = "rollout", phase = change or step.
    ROLLOUT_PREFLIGHTED = "rollout_preflighted"
    ROLLOUT_REFUSED = "rollout_refused"
    ROLLOUT_APPLY_STARTED = "rollout_apply_started"
    ROLLOUT_APPLY_FINISHED = "rollout_apply_finished"
    ROLLOUT_APPLY_FAILED = "rollout_apply_failed"
    ROLLOUT_VERIFY_PASSED = "rollout_verify_passed"
    ROLLOUT_VERIFY_FAILED = "rollout_verify_failed"
    ROLLOUT_WATCH_STARTED = "rollout_watch_started"
    ROLLOUT_WATCH_PASSED = "rollout_watch_passed"
    ROLLOUT_WATCH_FAILED = "rollout_watch_failed"
    ROLLOUT_CHANGE_FOUND = "rollout_change_found"
    ROLLOUT_DRIFTED = "rollout_drifted"
    ROLLOUT_FINISHED = "rollout_finished"
    ROLLBACK_ARMED = "rollback_armed"
    ROLLBACK_STARTED = "rollback_started"
    ROLLBACK_FINISHED = "rollback_finished"
    ROLLBACK_FAILED = "rollback_failed"
    # Health of the target, stream "health/<release>": feature = release, workflow = "health", phase = breaker.
    HEALTH_BASELINE_TAKEN = "health_baseline_taken"
    BREAKER_OPENED = "breaker_opened"
    BREAKER_PROBING = "breaker_probing"
    BREAKER_CLOSED = "breaker_closed"
    BREAKER_HELD = "breaker_held"
    BREAKER_RELEASED = "breaker_released"
    # Who cleared or marked what in Airflow, stream "cleared/<dag>/<run>": feature = DAG, workflow = "airflow".
    TASK_CLEARED = "task_cleared"
    TASK_MARKED = "task_marked"
    # What Airflow says of itself, stream "airflow/<dag>/<run>": feature = DAG, workflow = "airflow", phase = task.
    TASK_STATE_CHANGED = "task_state_changed"
    RUN_STATE_CHANGED = "run_state_changed"

    @classmethod
    def parse(cls, name: str) -> EventType:
        """The type of that name; UnknownEventType names it and those that exist."""
        try:
            return cls(name)
        except ValueError:
            raise UnknownEventType(
                f'event type "{name}" is not in the catalogue; known are: {", ".join(cls)}',
                remedy="Correct the name, or add the new meaning to comporta.ledger.EventType.",
            ) from None


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """An event to be appended; its id, version and time are given by the ledger.

    ``payload`` is a JSON object. ``idempotency_key`` names the intent: appending it again returns the first id.
    """

    event_type: EventType | str
    feature: str
    actor: str
    workflow: str | None = None
    phase: str | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_type", EventType.parse(self.event_type))
        if not self.actor:
            raise LedgerError(f'event "{self.event_type}" has no actor', remedy="Say who did it: a user or a task.")


@dataclass(frozen=True, kw_only=True)
class Event:
    """A recorded event. ``event_type`` is plain text: a reader must survive types that are newer than itself."""

    id: int
    stream: str
    version: int
    feature: str
    event_type: str
    workflow: str | None
    phase: str | None
    payload: Mapping[str, Any] = field(hash=False)
    actor: str
    timestamp: datetime
    idempotency_key: str | None


def fold(events: Iterable[Event], initial: S, step: Callable[[S, Event], S]) -> S:
    """State after ``events`` in the order given: ``step`` applied to the state so far and each event."""
    return reduce(step, events, initial)
