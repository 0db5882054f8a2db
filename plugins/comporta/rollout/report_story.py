"""What the ledger tells of a rollout, change by change: a pure fold that no event, old, newer or half written, can break."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from comporta.ledger import Event, EventType

State = Literal["in place", "rolled back", "not applied", "half"]
Step = Literal["apply", "verify", "watch", "rollback"]
Outcome = Literal["done", "failed", "broken off", "open"]

OUTSIDE = "outside"


@dataclass
class Span:
    """One run of one step. ``ended`` is None where it never said so: ``broken off`` when a later event shows that."""

    change: str
    step: Step
    started: datetime
    run: str
    ended: datetime | None = None
    outcome: Outcome = "open"
    said: str = ""
    seconds: float | None = None
    locks: Mapping[str, float | None] | None = None
    already: bool = False


@dataclass
class Rollback:
    """One rollback of one change. ``restored``: the catalogue is as it must be, is not, or, None, nothing was there to compare.

    ``proof`` is the proof that led to the same catalogue; ``left`` are the changes that stayed.
    """

    change: str
    root: str
    why: str
    because: str
    by: str | None
    note: str | None
    started: datetime
    run: str
    finished: datetime | None = None
    outcome: Outcome = "open"
    seconds: float | None = None
    restored: bool | None = None
    expected: str | None = None
    found: str | None = None
    facts: str | None = None
    differences: tuple[str, ...] = ()
    proof: str | None = None
    left: tuple[str, ...] = ()
    error: str | None = None


@dataclass
class Failure:
    """An attempt that failed; ``transient`` ones are tried again by themselves."""

    at: datetime
    change: str
    step: str
    error: str
    run: str
    attempt: str = ""
    sqlstate: str | None = None
    statement: str | None = None
    transient: bool | None = None


@dataclass
class Applied:
    """How the change was last applied; ``already`` when it was found in place. ``after`` is the fingerprint then."""

    at: datetime
    seconds: float | None
    statements: int | None
    already: bool
    after: str | None
    facts: str | None


@dataclass
class ChangeStory:
    """Where one change stands, and how it came there. ``verified`` and ``watched`` are about the last time it was applied."""

    name: str
    state: State = "not applied"
    why: str = ""
    at: datetime | None = None
    verified: bool = False
    watched: Literal["passed", "failed", "under way"] | None = None
    applied: Applied | None = None
    rollback: Rollback | None = None
    gate: int | None = None
    before: str | None = None
    scripts: Mapping[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


@dataclass
class Story:
    """All changes, and what happened to them, in the order of the ledger."""

    changes: dict[str, ChangeStory]
    spans: list[Span] = field(default_factory=list)
    rollbacks: list[Rollback] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    preflights: list[Event] = field(default_factory=list)
    drifts: list[Event] = field(default_factory=list)
    found: list[Event] = field(default_factory=list)


def tell(events: Iterable[Event], names: Sequence[str]) -> Story:
    """The story of the changes of those names, and of any other that the events speak of."""
    story = Story({name: ChangeStory(name) for name in names})
    for event in events:
        _hear(story, event)
    return story


def _hear(story: Story, event: Event) -> None:
    match event.event_type:
        case EventType.ROLLOUT_PREFLIGHTED:
            story.preflights.append(event)
        case EventType.ROLLOUT_DRIFTED:
            story.drifts.append(event)
        case EventType.ROLLOUT_CHANGE_FOUND:
            _found(story, event)
        case EventType.ROLLOUT_REFUSED:
            change = _change(story, event)
            change.refused = texts(event.payload.get("reasons"))
            error = "; ".join(change.refused) or "no reason was recorded"
            step = f"{event.payload.get('step') or 'apply'}, refused"
            story.failures.append(Failure(event.timestamp, change.name, step, error, run_of(event)))
        case EventType.ROLLOUT_APPLY_STARTED | EventType.ROLLOUT_APPLY_FINISHED | EventType.ROLLOUT_APPLY_FAILED:
            _apply(story, event)
        case EventType.ROLLOUT_VERIFY_PASSED | EventType.ROLLOUT_VERIFY_FAILED:
            _verify(story, event)
        case EventType.ROLLOUT_WATCH_STARTED | EventType.ROLLOUT_WATCH_PASSED | EventType.ROLLOUT_WATCH_FAILED:
            _watch(story, event)
        case EventType.ROLLBACK_STARTED | EventType.ROLLBACK_FINISHED | EventType.ROLLBACK_FAILED:
            _rollback(story, event)


def _found(story: Story, event: Event) -> None:
    change, payload = _change(story, event), event.payload
    story.found.append(event)
    had_been = change.state in ("in place", "half")
    absent: State = "rolled back" if had_been else change.state
    change.state = "in place" if payload.get("found") == "in place" else absent
    change.why, change.at = OUTSIDE, event.timestamp
    change.verified, change.watched, change.rollback = False, None, None


def _apply(story: Story, event: Event) -> None:
    change, payload = _change(story, event), event.payload
    if event.event_type == EventType.ROLLOUT_APPLY_STARTED:
        change.state, change.why, change.at = "half", "apply", event.timestamp
        change.verified, change.watched, change.refused = False, None, ()
        change.gate = gate if isinstance(gate := payload.get("gate"), int) else None
        change.scripts = {str(role): str(digest) for role, digest in mapping(payload.get("scripts")).items()}
        change.before, _ = reference(payload.get("fingerprint"))
        _begin(story, event, "apply", "goes on where it was broken off" if payload.get("resumed") else "")
    elif event.event_type == EventType.ROLLOUT_APPLY_FINISHED:
        digest, facts = reference(payload.get("fingerprint"))
        already = bool(payload.get("already"))
        _end(story, event, "apply", "done", "was in place already" if already else "")
        change.state, change.why = "in place", ""
        if already and change.applied:
            return
        change.at, change.verified, change.watched = event.timestamp, False, None
        statements = payload.get("statements")
        change.applied = Applied(
            event.timestamp,
            number(payload.get("seconds")),
            len(statements) if isinstance(statements, list) else None,
            already,
            digest,
            facts,
        )
    else:
        change.state, change.why, change.at = "half", "apply failed", event.timestamp
        _end(story, event, "apply", "failed", str(payload.get("error") or ""))
        story.failures.append(_failure(event, "apply", str(_attempts(change, "apply"))))


def _verify(story: Story, event: Event) -> None:
    change, payload = _change(story, event), event.payload
    change.verified = event.event_type == EventType.ROLLOUT_VERIFY_PASSED
    change.attempts["verify"] = change.attempts.get("verify", 0) + 1
    seconds = number(payload.get("seconds"))
    started = event.timestamp - timedelta(seconds=seconds or 0.0)
    story.spans.append(
        Span(
            change.name,
            "verify",
            started,
            run_of(event),
            event.timestamp,
            "done" if change.verified else "failed",
            str(payload.get("error") or ""),
            seconds,
        )
    )
    if not change.verified:
        of = payload.get("of")
        attempt = f"{payload.get('attempt', '')}{f' of {of}' if of else ''}"
        story.failures.append(_failure(event, "verify", attempt))


def _watch(story: Story, event: Event) -> None:
    change = _change(story, event)
    if event.event_type == EventType.ROLLOUT_WATCH_STARTED:
        change.watched = "under way"
        _begin(story, event, "watch", "")
        return
    passed = event.event_type == EventType.ROLLOUT_WATCH_PASSED
    change.watched = "passed" if passed else "failed"
    reasons = "; ".join(texts(event.payload.get("reasons")))
    _end(story, event, "watch", "done" if passed else "failed", reasons)
    if not passed:
        error = reasons or "no reason was recorded"
        story.failures.append(Failure(event.timestamp, change.name, "watch", error, run_of(event)))


def _rollback(story: Story, event: Event) -> None:
    change, payload = _change(story, event), event.payload
    if event.event_type == EventType.ROLLBACK_STARTED:
        change.state, change.why, change.at = "half", "rollback", event.timestamp
        _begin(story, event, "rollback", str(payload.get("because") or ""))
        change.rollback = Rollback(
            change.name,
            str(payload.get("root") or change.name),
            str(payload.get("why") or ""),
            str(payload.get("because") or ""),
            _optional(payload.get("cleared_by")) or (event.actor if payload.get("why") == "asked" else None),
            _optional(payload.get("note")),
            event.timestamp,
            run_of(event),
        )
        for former in story.rollbacks:
            if former.change == change.name and former.outcome == "open":
                former.outcome = "broken off"
        story.rollbacks.append(change.rollback)
        return
    rollback = change.rollback
    if rollback is None or rollback.outcome != "open":  # its beginning is in no event that was given
        seconds = number(payload.get("seconds")) or 0.0
        started = event.timestamp - timedelta(seconds=seconds)
        root = str(payload.get("root") or change.name)
        rollback = change.rollback = Rollback(change.name, root, "", "", None, None, started, run_of(event))
        story.rollbacks.append(rollback)
    rollback.seconds = number(payload.get("seconds"))
    rollback.finished = event.timestamp
    change.at = event.timestamp
    if event.event_type == EventType.ROLLBACK_FAILED:
        change.state, change.why = "half", "rollback failed"
        rollback.outcome, rollback.error = "failed", str(payload.get("error") or "no error was recorded")
        _end(story, event, "rollback", "failed", rollback.error)
        story.failures.append(_failure(event, "rollback", str(_attempts(change, "rollback"))))
        return
    change.state, change.why = "rolled back", rollback.why
    rollback.outcome = "done"
    restored = payload.get("restored")
    rollback.restored = restored if isinstance(restored, bool) else None
    rollback.expected = _optional(payload.get("expected"))
    rollback.found, rollback.facts = reference(payload.get("fingerprint"))
    rollback.differences = texts(payload.get("differences"))
    rollback.proof = _optional(payload.get("proof"))
    rollback.left = texts(payload.get("left"))
    _end(story, event, "rollback", "done", "")


# -- spans -------------------------------------------------------------------------------------------------------------


def _begin(story: Story, event: Event, step: Step, said: str) -> None:
    change = _change(story, event)
    _break_off(story, change.name)
    change.attempts[step] = change.attempts.get(step, 0) + 1
    story.spans.append(Span(change.name, step, event.timestamp, run_of(event), said=said))


def _end(story: Story, event: Event, step: Step, outcome: Outcome, said: str) -> None:
    change = _change(story, event)
    open_ones = (span for span in reversed(story.spans) if (span.change, span.step) == (change.name, step))
    span = next((each for each in open_ones if each.outcome == "open"), None)
    if span is None:
        started = event.timestamp - timedelta(seconds=number(event.payload.get("seconds")) or 0.0)
        span = Span(change.name, step, started, run_of(event))
        story.spans.append(span)
    span.ended, span.outcome, span.said = event.timestamp, outcome, "; ".join(filter(None, (span.said, said)))
    span.seconds, span.locks = number(event.payload.get("seconds")), locks(event.payload)
    span.already = bool(event.payload.get("already"))


def _break_off(story: Story, change: str) -> None:
    """A step of this change begins: what did not say that it ended was broken off."""
    for span in story.spans:
        if span.change == change and span.outcome == "open":
            span.outcome = "broken off"


# -- parts of events ---------------------------------------------------------------------------------------------------


def _change(story: Story, event: Event) -> ChangeStory:
    name = event.phase or "unnamed"
    return story.changes.setdefault(name, ChangeStory(name))


def _failure(event: Event, step: str, attempt: str) -> Failure:
    payload = event.payload
    transient = payload.get("transient")
    return Failure(
        event.timestamp,
        event.phase or "",
        step,
        str(payload.get("error") or "no error was recorded"),
        run_of(event),
        attempt,
        _optional(payload.get("sqlstate")),
        _optional(payload.get("statement")),
        transient if isinstance(transient, bool) else None,
    )


def _attempts(change: ChangeStory, step: str) -> int:
    return change.attempts.get(step, 1)


def run_of(event: Event) -> str:
    """The run that wrote the event, empty where it says none."""
    return str(event.payload.get("run") or "")


def reference(value: object) -> tuple[str | None, str | None]:
    """Digest and page of a fingerprint reference ``{"digest", "facts"}``; a bare digest will do."""
    if isinstance(value, Mapping):
        return _optional(value.get("digest")), _optional(value.get("facts"))
    return _optional(value), None


def locks(payload: Mapping[str, Any]) -> dict[str, float | None] | None:
    """Seconds: the longest wait caused and the longest exclusive lock; None when they were not measured."""
    measured = payload.get("locks")
    if not isinstance(measured, Mapping):
        return None
    return {name: number(measured.get(name)) for name in ("longest_wait_caused_s", "longest_exclusive_s")}


def number(value: object) -> float | None:
    """A number as such; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object as such; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def texts(value: object) -> tuple[str, ...]:
    """A list of texts as such; one text as a list; an empty one for anything else."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(each) for each in value) if isinstance(value, list | tuple) else ()


def _optional(value: object) -> str | None:
    return None if value is None or value == "" else str(value)
