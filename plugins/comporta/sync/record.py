"""A daily sync in the ledger: stream ``daily_sync/<run id>``, and the state that is folded from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from comporta.ledger import Event, EventType, Ledger, NewEvent, fold
from comporta.postgres.queries import load
from comporta.sync.model import Answer, Blocker, Item

WORKFLOW = "daily_sync"


@dataclass(frozen=True)
class Sync:
    """A daily sync as far as it has come. Items are plain values, as they were recorded."""

    run_id: str
    feature: str = ""
    opened_at: str = ""
    asked: tuple[str, ...] = ()
    checked_at: str = ""
    answers: tuple[Answer, ...] = ()
    items: tuple[Mapping[str, Any], ...] = ()
    blockers: tuple[Blocker, ...] = ()
    report: str = ""
    decisions: tuple[Mapping[str, Any], ...] = ()

    @property
    def finished(self) -> bool:
        """True once its minutes are written."""
        return bool(self.report)


def stream_of(run_id: str) -> str:
    """The stream of a run."""
    return f"{WORKFLOW}/{run_id}"


def folded(run_id: str, events: Iterable[Event]) -> Sync:
    """The state of a sync after its events; what was checked again replaces what was checked before."""
    return fold(events, Sync(run_id), _step)


def _step(sync: Sync, event: Event) -> Sync:
    payload = event.payload
    match event.event_type:
        case EventType.SYNC_OPENED:
            opened_at = str(payload.get("at") or event.timestamp.isoformat())
            return replace(sync, feature=event.feature, opened_at=opened_at, asked=tuple(payload.get("owners") or ()))
        case EventType.BLOCKERS_CHECKED:
            return replace(
                sync,
                feature=event.feature,
                checked_at=str(payload.get("at") or event.timestamp.isoformat()),
                answers=tuple(Answer.parse(each) for each in payload.get("answers") or ()),
                items=tuple(payload.get("items") or ()),
                blockers=tuple(Blocker.parse(each) for each in payload.get("blockers") or ()),
            )
        case EventType.MINUTES_WRITTEN:
            minutes = payload.get("minutes") or {}
            return replace(
                sync, report=str(payload.get("report") or ""), decisions=tuple(minutes.get("decisions") or ())
            )
        case _:
            return sync


def read(ledger: Ledger, run_id: str) -> Sync:
    """The sync of that run; an empty one when it has not begun."""
    return folded(run_id, ledger.read(stream_of(run_id)))


def previous_blockers(ledger: Ledger, run_id: str, feature: str) -> tuple[Blocker, ...]:
    """What the sync before this one found in the way of the release; none when there was none before."""
    begun = ledger.read(stream_of(run_id), limit=1)
    before = begun[0].id if begun else None
    for event in reversed(ledger.latest(_LOOKED_BACK, event_type=EventType.BLOCKERS_CHECKED)):
        # A run that was cleared and checked again later is still the run that it was.
        earlier = before is None or event.id < before
        if event.feature == feature and event.stream != stream_of(run_id) and earlier:
            return folded("", [event]).blockers
    return ()


_LOOKED_BACK = 100


def opened(ledger: Ledger, run_id: str, *, feature: str, actor: str, at: str, owners: Sequence[str]) -> None:
    """The sync began and asks these owners; a repetition adds nothing."""
    if ledger.read(stream_of(run_id), limit=1, event_type=EventType.SYNC_OPENED):
        return
    _append(ledger, run_id, EventType.SYNC_OPENED, feature, actor, {"at": at, "owners": list(owners)})


def checked(
    ledger: Ledger,
    run_id: str,
    *,
    feature: str,
    actor: str,
    at: str,
    answers: Sequence[Answer],
    items: Sequence[Item],
    blockers: Sequence[Blocker],
) -> None:
    """Answers and checklist were looked at; this is in the way."""
    payload = {
        "at": at,
        "answers": [each.as_json() for each in answers],
        "items": [each.as_json() for each in items],
        "blockers": [each.as_json() for each in blockers],
    }
    _append(ledger, run_id, EventType.BLOCKERS_CHECKED, feature, actor, payload)


def written(
    ledger: Ledger, run_id: str, *, feature: str, actor: str, report: str, digest: str, minutes: Mapping[str, Any]
) -> None:
    """The minutes were written; the same minutes again add nothing, so nobody gets them twice."""
    payload = {"report": report, "digest": digest, "minutes": dict(minutes)}
    key = f"{stream_of(run_id)}/minutes/{digest}"
    _append(ledger, run_id, EventType.MINUTES_WRITTEN, feature, actor, payload, key)


def now(ledger: Ledger) -> datetime:
    """The clock of the control database, by which gates close."""
    row = ledger.connection.execute(load("comporta.sync", "now.sql")).fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment.astimezone(UTC)


def _append(
    ledger: Ledger,
    run_id: str,
    event_type: EventType,
    feature: str,
    actor: str,
    payload: Mapping[str, Any],
    key: str | None = None,
) -> None:
    event = NewEvent(
        event_type=event_type,
        feature=feature,
        workflow=WORKFLOW,
        actor=actor,
        payload=payload,
        idempotency_key=key,
    )
    ledger.append(stream_of(run_id), [event])
