"""Who is told of what: the escalation matrix of ``config/gates.yaml`` applied to one event. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from comporta.gates import Gate
from comporta.gates.policy import GatesFile
from comporta.ledger import Event
from comporta.ledger.event import EventType
from comporta.notices.model import Notice
from comporta.notices.rollouts import occasion

STARTED_THE_RUN = "started the run"

_ASKING = ("gate_opened", "gate_reminded")
_OCCASIONS: dict[str, tuple[Notice, ...]] = {
    "gate_opened": (Notice.OPENED,),
    "gate_reminded": (Notice.REMINDER,),
    "gate_decided": (Notice.DECIDED,),
    "gate_expired": (Notice.EXPIRED,),
    "gate_withdrawn": (Notice.WITHDRAWN,),
    "gate_reopened": (Notice.WITHDRAWN,),
    "gate_evidence_changed": (Notice.EVIDENCE_CHANGED,),
}

# Each rung is told when somebody of the one before could not be reached.
_LADDER = (Notice.OPENED, Notice.REMINDER, Notice.EXPIRED, Notice.BLOCKER)


def told(event: Event, gate: Gate | None, directory: GatesFile, before: Sequence[Event] = ()) -> dict[str, Notice]:
    """Login -> what the mail tells; a person who is told for two reasons gets one mail, for the weightier one.

    ``gate`` is as it stands now, None for an event that is about none. What a gate asked is not asked any more once it
    is answered: a request that was overtaken tells nobody, and the answer is a notice of its own. ``before`` are the events
    before this one in the stream of a rollout or of a target's health: what they told already is not told again.
    """
    if event.event_type == EventType.MINUTES_WRITTEN:
        return dict.fromkeys(_by_matrix(Notice.MINUTES, event, None, directory), Notice.MINUTES)
    if (notice := occasion(event, before)) is not None:
        return dict.fromkeys(_by_matrix(notice, event, None, directory), notice)
    if gate is None:
        return {}
    if event.event_type == EventType.MAIL_FAILED:
        return dict.fromkeys(_next_in_line(event, gate, directory), Notice.UNREACHED)
    found: dict[str, Notice] = {}
    for notice in occasions(event, gate):
        for login in _addressed(notice, event, gate, directory):
            found.setdefault(login, notice)
    return found


def occasions(event: Event, gate: Gate) -> tuple[Notice, ...]:
    """The occasions of the matrix that an event is, the weightiest first."""
    if event.event_type in _ASKING and (gate.state != "open" or event.payload.get("late")):
        return ()
    found = _OCCASIONS.get(event.event_type, ())
    against = event.event_type == "gate_decided" and event.payload.get("decision") == "no_go"
    if gate.kind == "readiness" and (against or event.event_type == "gate_expired"):
        return (Notice.BLOCKER, *found)
    return (Notice.NO_GO, *found) if against else found


def _addressed(notice: Notice, event: Event, gate: Gate, directory: GatesFile) -> Iterator[str]:
    if notice == Notice.EVIDENCE_CHANGED:
        # Whose vote is void must know in any case.
        voided = [vote["actor"] for vote in event.payload.get("voided", ())]
        yield from (login for login in voided if login in directory.people)
    yield from _by_matrix(notice, event, gate, directory)


def _by_matrix(notice: Notice, event: Event, gate: Gate | None, directory: GatesFile) -> Iterator[str]:
    for rule in directory.escalation:
        if rule.when == notice and (not rule.gates or (gate is not None and gate.name in rule.gates)):
            for group in rule.tell:
                yield from (login for login in members(group, event, gate, directory) if login in directory.people)


def members(group: str, event: Event, gate: Gate | None, directory: GatesFile) -> Sequence[str]:
    """The people that a word of the matrix stands for: holders, silent, everyone, askers, or the name of a role."""
    if group == "everyone":
        return list(directory.people)
    if gate is None or group in directory.roles:
        return directory.roles.get(group, ())
    excluded = gate.policy.excluded
    if group == "holders":
        holders = dict.fromkeys(who for people in gate.policy.holders.values() for who in people)
        return [who for who in holders if who not in excluded]
    if group == "askers":
        return [login for login, why in excluded.items() if why == STARTED_THE_RUN]
    # silent, as it was at the time of the event: by now somebody may have answered
    return [str(who) for who in event.payload.get("silent", gate.silent)]


def _next_in_line(event: Event, gate: Gate, directory: GatesFile) -> list[str]:
    """Those whom the matrix names on the rungs after that of a mail that failed, without the one who was not reached."""
    unreached, tells = event.payload.get("recipient"), event.payload.get("notice")
    if tells not in _LADDER:
        return []
    for rung in _LADDER[_LADDER.index(Notice(tells)) + 1 :]:
        found = dict.fromkeys(_by_matrix(rung, event, gate, directory))
        if others := [login for login in found if login != unreached]:
            return others
    return [login for login in members("askers", event, gate, directory) if login in directory.people]
