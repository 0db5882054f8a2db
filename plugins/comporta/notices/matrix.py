"""Who is told of what: the escalation matrix of ``config/gates.yaml`` applied to one event. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from comporta.gates import Gate
from comporta.ledger import Event
from comporta.ledger.event import EventType
from comporta.notices.model import Notice


class Rule(Protocol):
    """A line of the matrix: on which occasion, for which gates (none named: all), who is told."""

    @property
    def when(self) -> str: ...  # noqa: D102
    @property
    def tell(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def gates(self) -> Sequence[str]: ...  # noqa: D102


class Directory(Protocol):
    """What is needed of the policy: the people, their roles, and the matrix."""

    @property
    def people(self) -> Mapping[str, object]: ...  # noqa: D102
    @property
    def roles(self) -> Mapping[str, Sequence[str]]: ...  # noqa: D102
    @property
    def escalation(self) -> Sequence[Rule]: ...  # noqa: D102


# Each rung is told when somebody of the one before could not be reached.
_LADDER = (Notice.OPENED, Notice.REMINDER, Notice.EXPIRED, Notice.BLOCKER)


def told(event: Event, gate: Gate | None, directory: Directory) -> dict[str, Notice]:
    """Login -> what the mail tells; a person who is told for two reasons gets one mail, for the weightier one.

    ``gate`` is as it stands now, None for an event that is about none. What a gate asked is not asked any more once it
    is answered: a request that was overtaken tells nobody, and the answer is a notice of its own.
    """
    if event.event_type == EventType.MINUTES_WRITTEN:
        return dict.fromkeys(directory.people, Notice.MINUTES)
    if gate is None:
        return {}
    if event.event_type == EventType.MAIL_FAILED:
        return {login: Notice.UNREACHED for login in _next_in_line(event, gate, directory)}
    found: dict[str, Notice] = {}
    for notice in occasions(event, gate):
        for login in _addressed(notice, event, gate, directory):
            found.setdefault(login, notice)
    return found


def occasions(event: Event, gate: Gate) -> tuple[Notice, ...]:
    """The occasions of the matrix that an event is, the weightiest first."""
    no_go = gate.kind == "decision" and event.payload.get("decision") == "no_go"
    blocks = gate.kind == "readiness"
    match event.event_type:
        case "gate_opened":
            return (Notice.OPENED,) if gate.state == "open" else ()
        case "gate_reminded":
            return (Notice.REMINDER,) if gate.state == "open" and not event.payload.get("late") else ()
        case "gate_decided" if no_go:
            return (Notice.NO_GO, Notice.DECIDED)
        case "gate_decided" if blocks and event.payload.get("decision") == "no_go":
            return (Notice.BLOCKER, Notice.DECIDED)
        case "gate_decided":
            return (Notice.DECIDED,)
        case "gate_expired" if blocks:
            return (Notice.BLOCKER, Notice.EXPIRED)
        case "gate_expired":
            return (Notice.EXPIRED,)
        case "gate_withdrawn" | "gate_reopened":
            return (Notice.WITHDRAWN,)
        case "gate_evidence_changed" if event.payload.get("voided"):
            return (Notice.EVIDENCE_CHANGED,)
        case _:
            return ()


def _addressed(notice: Notice, event: Event, gate: Gate, directory: Directory) -> Iterator[str]:
    if notice == Notice.EVIDENCE_CHANGED:
        # Whose vote is void must know in any case; the others as when something is withdrawn.
        yield from (vote["actor"] for vote in event.payload["voided"] if vote["actor"] in directory.people)
        notice_in_matrix = Notice.WITHDRAWN
    else:
        notice_in_matrix = notice
    yield from _by_matrix(notice_in_matrix, event, gate, directory)


def _by_matrix(notice: Notice, event: Event, gate: Gate, directory: Directory) -> Iterator[str]:
    for rule in directory.escalation:
        if rule.when == notice and (not rule.gates or gate.name in rule.gates):
            for group in rule.tell:
                yield from (login for login in members(group, event, gate, directory) if login in directory.people)


def members(group: str, event: Event, gate: Gate, directory: Directory) -> Sequence[str]:
    """The people that a word of the matrix stands for: holders, silent, everyone, askers, or the name of a role."""
    match group:
        case "holders":
            holders = dict.fromkeys(who for people in gate.policy.holders.values() for who in people)
            return [who for who in holders if who not in gate.policy.excluded]
        case "silent":
            # As it was at the time of the event: by now somebody may have answered.
            return [str(who) for who in event.payload.get("silent", gate.silent)]
        case "everyone":
            return list(directory.people)
        case "askers":
            return list(gate.policy.excluded)
        case _:
            return directory.roles.get(group, ())


def _next_in_line(event: Event, gate: Gate, directory: Directory) -> list[str]:
    """Those whom the matrix names on the rungs after that of a mail that failed, without the one who was not reached."""
    unreached, tells = event.payload.get("recipient"), event.payload.get("notice")
    if tells not in _LADDER:
        return []
    for rung in _LADDER[_LADDER.index(Notice(tells)) + 1 :]:
        found = dict.fromkeys(_by_matrix(rung, event, gate, directory))
        if others := [login for login in found if login != unreached]:
            return others
    return [login for login in gate.policy.excluded if login in directory.people and login != unreached]
