"""Rollouts, rollbacks and breakers as mail: which events people are told of, and what the letter says. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comporta.ledger import Event, EventType
from comporta.notices.letters import Content, Pages, moment
from comporta.notices.model import Letter, Notice

TOLD_OF = frozenset(
    {
        EventType.ROLLOUT_PREFLIGHTED,
        EventType.ROLLOUT_REFUSED,
        EventType.ROLLOUT_APPLY_FAILED,
        EventType.ROLLOUT_VERIFY_FAILED,
        EventType.ROLLOUT_WATCH_FAILED,
        EventType.ROLLOUT_CHANGE_FOUND,
        EventType.ROLLOUT_DRIFTED,
        EventType.ROLLOUT_FINISHED,
        EventType.ROLLBACK_FINISHED,
        EventType.ROLLBACK_FAILED,
        EventType.BREAKER_OPENED,
        EventType.BREAKER_HELD,
    }
)
_SHOWN = 20
_ALL_BREAKERS = "all"

Fact = tuple[str, str]
Items = tuple[str, ...]


def occasion(event: Event, before: Sequence[Event]) -> Notice | None:
    """What the event is to be told as; None when it is no news. ``before`` are the events before it in its stream.

    No news is: an attempt that is tried again by itself, a dependant that went before the change that was meant, a breaker that
    did not pass its probe, and what the same run said already.
    """
    payload = event.payload
    found: Notice | None = None
    match event.event_type:
        case EventType.ROLLOUT_PREFLIGHTED if payload.get("verdict") != "pass":
            found = Notice.ROLLOUT_STOPPED
        case EventType.ROLLOUT_REFUSED | EventType.ROLLOUT_WATCH_FAILED:
            found = Notice.ROLLOUT_STOPPED
        case EventType.ROLLOUT_APPLY_FAILED if not payload.get("transient"):
            found = Notice.ROLLOUT_STOPPED
        case EventType.ROLLOUT_VERIFY_FAILED if payload.get("attempt") == payload.get("of"):
            found = Notice.ROLLOUT_STOPPED
        case EventType.ROLLBACK_FINISHED if payload.get("root") in (None, event.phase):
            found = Notice.ROLLED_BACK
        case EventType.ROLLBACK_FAILED if not _failed_alike(event, before):
            found = Notice.ROLLBACK_FAILED
        case EventType.ROLLOUT_CHANGE_FOUND:
            found = Notice.DRIFTED
        case EventType.ROLLOUT_DRIFTED if not _said(event, before, "fingerprint"):
            found = Notice.DRIFTED
        case EventType.ROLLOUT_FINISHED if not _said(event, before, "digest"):
            found = Notice.ROLLOUT_FINISHED
        case EventType.BREAKER_OPENED if not _stood_open(event, before):
            found = Notice.BREAKER_OPENED
        case EventType.BREAKER_HELD:
            found = Notice.BREAKER_HELD
    return found


def about_rollout(notice: Notice, event: Event, before: Sequence[Event], pages: Pages) -> Letter:
    """The letter on one event of a rollout or of a breaker."""
    write = {
        Notice.ROLLED_BACK: _rolled_back,
        Notice.ROLLBACK_FAILED: _rollback_failed,
        Notice.BREAKER_OPENED: _breaker_opened,
        Notice.BREAKER_HELD: _breaker_held,
        Notice.DRIFTED: _drifted,
        Notice.ROLLOUT_FINISHED: _finished,
    }.get(notice, _stopped)
    subject, lead, facts, lists = write(event, before)
    payload = event.payload
    run = str(payload.get("run") or "")
    common = [
        ("release", event.feature),
        *([("run", run)] if run else []),
        *([("target", str(payload["target"]))] if payload.get("target") else []),
        ("at", moment(event.timestamp)),
    ]
    links = [("Report", pages.report(str(payload.get("report") or ""))), ("Run", pages.run(run))]
    return Content(
        subject=" ".join(f"[Comporta] {subject}".split()),
        lead=lead,
        facts=(*facts, *common),
        lists=tuple((title, tuple(items)) for title, items in lists if items),
        links=tuple(each for each in links if each[1]),
    ).letter()


Parts = tuple[str, str, Sequence[Fact], Sequence[tuple[str, Items]]]


def _stopped(event: Event, _: Sequence[Event]) -> Parts:
    payload, change = event.payload, event.phase
    reasons = _texts(payload.get("reasons"))
    error = str(payload.get("error") or "no error was recorded")
    match event.event_type:
        case EventType.ROLLOUT_PREFLIGHTED:
            listed = payload.get("findings")
            findings = (
                [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list | tuple) else []
            )
            stops = [each for each in findings if each.get("severity") == "stop"]
            lead = "The preflight found what forbids the rollout. The target was only read."
            return (
                f"Rollout refused: {event.feature}",
                lead,
                (),
                (("In the way", tuple(_finding(each) for each in stops)),),
            )
        case EventType.ROLLOUT_REFUSED:
            step = str(payload.get("step") or "apply")
            lead = f"{step} of {change} was refused before its first statement; the target was only read."
            return f"Rollout refused at {change}: {event.feature}", lead, (), (("Why", reasons),)
        case EventType.ROLLOUT_VERIFY_FAILED:
            of = payload.get("of")
            what, said = f"verify failed {of} times" if of else "verify failed", error
        case EventType.ROLLOUT_WATCH_FAILED:
            what, said = "the target was not well", "; ".join(reasons) or "no reason was recorded"
        case _:
            what, said = "apply failed", error
    lead = (
        f"{change}: {said}. Nothing after {change} is started; what becomes of {change} is told in a mail of its own."
    )
    return f"Rollout stopped at {change}: {what}", lead, _of_statement(payload), ()


def _rolled_back(event: Event, before: Sequence[Event]) -> Parts:
    gone = [each for each in _same_rollback(event, before) if each.event_type == EventType.ROLLBACK_FINISHED]
    others = [str(each.phase) for each in gone]
    wrong = any(each.payload.get("restored") is False for each in (*gone, event))
    catalogue = (
        "THE CATALOGUE IS NOT AS IT MUST BE"
        if wrong
        else "the catalogue is as it must be"
        if event.payload.get("restored") is True  # what went first is compared when all have gone
        else "nothing says whether the catalogue is as it was"
    )
    with_others = f" with {', '.join(others)}" if others else ""
    took = tuple(f"{each.phase}: {_took(each.payload)}, {_compared(each.payload)}" for each in (*gone, event))
    differences = [
        f"{each.phase}: {text}" for each in (*gone, event) for text in _texts(each.payload.get("differences"))
    ]
    return (
        f"{event.phase} was rolled back{with_others}: {catalogue}",
        f"{event.phase} was rolled back{with_others}, {_asked_by(_started(event, before))}.",
        (),
        (("In this order", took), ("Differences", tuple(differences[:_SHOWN]))),
    )


def _rollback_failed(event: Event, before: Sequence[Event]) -> Parts:
    payload = event.payload
    again = (
        "It is tried again by itself."
        if payload.get("transient")
        else f"A person is needed: clear its task `{event.phase}.rollback`, or run `comporta rollback {event.phase}`; "
        "the script goes on where it stopped."
    )
    gone = [str(each.phase) for each in _same_rollback(event, before) if each.event_type == EventType.ROLLBACK_FINISHED]
    root = payload.get("root")
    meant = [("for", f"the rollback of {root}")] if root and root != event.phase else []
    return (
        f"ROLLBACK OF {event.phase} FAILED: it is half there",
        f"{event.phase}: {payload.get('error') or 'no error was recorded'}. {again}",
        (*meant, ("asked", _asked_by(_started(event, before))), *_of_statement(payload)),
        (("Gone already", tuple(gone)),),
    )


def _breaker_opened(event: Event, _: Sequence[Event]) -> Parts:
    payload = event.payload
    window = payload.get("window") if isinstance(payload.get("window"), Mapping) else {}
    seen = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in (window or {}).items())
    facts = [("last value", _figure(payload.get("last"))), ("limit", _figure(payload.get("limit")))]
    lead = (
        f"{payload.get('reason') or 'no reason was recorded'}. While it is open nothing is applied, "
        "and a change that is being applied or watched is rolled back."
    )
    return f"Breaker {event.phase} opened: {event.feature}", lead, (*facts, *([("window", seen)] if seen else [])), ()


def _breaker_held(event: Event, _: Sequence[Event]) -> Parts:
    what = "All breakers are" if event.phase == _ALL_BREAKERS else f"Breaker {event.phase} is"
    reason = event.payload.get("reason") or "no reason was recorded"
    lead = f"{event.actor}: {reason}. Until a person releases it nothing is applied."
    return f"{what} held open by {event.actor}: {event.feature}", lead, (), ()


def _drifted(event: Event, _: Sequence[Event]) -> Parts:
    payload = event.payload
    if event.event_type == EventType.ROLLOUT_CHANGE_FOUND:
        found = str(payload.get("found") or "changed")
        lead = f"{event.phase} was found {found}, done outside Comporta: {payload.get('explains') or 'nothing explains it'}."
        return f"{event.phase} found {found}: {event.feature}", lead, (), ()
    differences = _texts(payload.get("differences"))
    count = f"{len(differences)} difference{'' if len(differences) == 1 else 's'}"
    lead = (
        "The target is not what Comporta had left, and nothing on record explains it. Nothing is applied until it does."
    )
    return f"Drift on the target, {count}: {event.feature}", lead, (), (("Differences", differences[:_SHOWN]),)


def _finished(event: Event, _: Sequence[Event]) -> Parts:
    payload = event.payload
    changes = payload.get("changes") if isinstance(payload.get("changes"), Mapping) else {}
    states: dict[str, list[str]] = {}
    for name, state in (changes or {}).items():
        states.setdefault(str(state), []).append(str(name))
    summary = "; ".join(f"{', '.join(names)} {state}" for state, names in states.items()) or "no change is on record"
    verdict = str(payload.get("verdict") or "no data")
    return (
        f"Rollout of {event.feature} finished, {verdict}: {summary}",
        f"The rollout of {event.feature} came to its end; the verdict is {verdict}.",
        (),
        (
            ("Changes", tuple(f"{name}: {state}" for name, state in (changes or {}).items())),
            ("Why", _texts(payload.get("reasons"))),
        ),
    )


# -- what the events before tell ---------------------------------------------------------------------------------------


def _same_rollback(event: Event, before: Sequence[Event]) -> list[Event]:
    """The events of the rollback that this one belongs to, oldest first: the same run, asked for the same change."""
    root = event.payload.get("root") or event.phase
    return list(_back_to_its_beginning(event, before, str(root)))[::-1]


def _back_to_its_beginning(event: Event, before: Sequence[Event], root: str) -> Iterator[Event]:
    for each in reversed(before):
        ended = each.phase == root and each.event_type in (EventType.ROLLBACK_FINISHED, EventType.ROLLOUT_APPLY_STARTED)
        if ended:
            return
        if each.payload.get("root") == root and each.payload.get("run") == event.payload.get("run"):
            yield each


def _started(event: Event, before: Sequence[Event]) -> Event | None:
    """How the rollback began that this event is about."""
    begun = (each for each in reversed(before) if each.phase == event.phase)
    return next((each for each in begun if each.event_type == EventType.ROLLBACK_STARTED), None)


def _failed_alike(event: Event, before: Sequence[Event]) -> bool:
    alike = [
        each
        for each in _same_rollback(event, before)
        if each.event_type == EventType.ROLLBACK_FAILED and each.phase == event.phase
    ]
    kinds = [(each.payload.get("sqlstate"), bool(each.payload.get("transient"))) for each in alike]
    return (event.payload.get("sqlstate"), bool(event.payload.get("transient"))) in kinds


def _said(event: Event, before: Sequence[Event], key: str) -> bool:
    """Whether this run said the same already."""
    return any(
        each.event_type == event.event_type
        and each.payload.get("run") == event.payload.get("run")
        and _digest(each.payload.get(key)) == _digest(event.payload.get(key)) is not None
        for each in before
    )


def _digest(value: Any) -> Any:
    return value.get("digest") if isinstance(value, Mapping) else value


def _stood_open(event: Event, before: Sequence[Event]) -> bool:
    moved = (EventType.BREAKER_OPENED, EventType.BREAKER_CLOSED)
    target = event.payload.get("target")
    own = [each for each in before if each.phase == event.phase and each.payload.get("target") == target]
    last = next((each.event_type for each in reversed(own) if each.event_type in moved), None)
    return last == EventType.BREAKER_OPENED


# -- words -------------------------------------------------------------------------------------------------------------


def _asked_by(started: Event | None) -> str:
    """By itself, or by whom, and why."""
    if started is None:
        return "for a reason that is not on record"
    payload = started.payload
    because = str(payload.get("because") or "no reason was recorded")
    if payload.get("why") == "automatic":
        return f"by itself: {because}"
    if payload.get("why") == "cleared" and payload.get("cleared_by"):
        return f"because {payload['cleared_by']} cleared its task: {payload.get('note') or 'no reason was given'}"
    return f"because it was asked for: {because}"


def _compared(payload: Mapping[str, Any]) -> str:
    restored = payload.get("restored")
    word = "as it must be" if restored is True else "NOT as it must be" if restored is False else "not compared"
    return word + (f" ({payload['proof']})" if payload.get("proof") else "")


def _took(payload: Mapping[str, Any]) -> str:
    seconds = payload.get("seconds")
    return f"{seconds:.1f} s" if isinstance(seconds, int | float) else "its time is not on record"


def _of_statement(payload: Mapping[str, Any]) -> list[Fact]:
    return [
        (label, str(payload[key]))
        for key, label in (("statement", "statement"), ("sqlstate", "SQLSTATE"))
        if payload.get(key)
    ]


def _finding(each: Mapping[str, Any]) -> str:
    cure = f" ({each['cure']})" if each.get("cure") else ""
    return f"{each.get('object') or each.get('code') or 'unnamed'}: {each.get('evidence') or 'no evidence'}{cure}"


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "no data"


def _texts(value: Any) -> Items:
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(each) for each in value) if isinstance(value, list | tuple) else ()
