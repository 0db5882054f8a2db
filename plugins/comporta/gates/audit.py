"""An auditor's reading of the gates: was every decision made by those who were entitled to, on what they saw, and used once?

Nothing here trusts the functions that recorded it. Each gate's story is read from the ledger's events alone, and every rule is
applied again by other means: whether votes fill the roles is decided by Hall's theorem, where the database matches people to
places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations, groupby
from typing import Any

from comporta.gates.gate import EvidenceItem, Policy, evidence_digest
from comporta.ledger import Event, EventType


@dataclass(frozen=True)
class Finding:
    """An event that should not be there, and why."""

    event: int
    gate: int
    what: str


def audit(events: Iterable[Event]) -> Iterator[Finding]:
    """Every finding in the stories of the gates whose events, whole streams of them, are among ``events``."""
    of_gates = [event for event in events if event.stream.startswith("gate/")]
    of_gates.sort(key=lambda event: (event.stream, event.version))
    for _, story in groupby(of_gates, key=lambda event: event.stream):
        yield from _Story().read(list(story))


def fills(policy: Policy, voters: Iterable[str]) -> bool:
    """Hall's theorem: roles can be filled when no set of roles needs more people than the voters who hold one of them."""
    people = set(voters) - policy.excluded.keys()
    held = {need.role: people & set(policy.holders.get(need.role, ())) for need in policy.needs}
    return all(
        len(set().union(*(held[need.role] for need in some))) >= sum(need.count for need in some)
        for size in range(1, len(policy.needs) + 1)
        for some in combinations(policy.needs, size)
    )


@dataclass
class _Story:
    """What is known of one gate so far, and what is wrong with the next event."""

    gate: int = 0
    policy: Policy = field(default_factory=lambda: Policy((), {}))
    deadline: str = ""
    evidence: str = ""
    blocked: bool = False
    votes: dict[str, str] = field(default_factory=dict)
    state: str = "new"
    valid_until: str = ""
    used: bool = False

    def read(self, story: list[Event]) -> Iterator[Finding]:
        for event in story:
            step = _STEPS.get(event.event_type)
            found = (
                ["this type of event does not belong to a gate"]
                if step is None
                else list(step(self, event, event.payload))
            )
            if event.event_type != EventType.GATE_OPENED and event.payload.get("gate") != self.gate:
                found.append(f"it speaks of gate {event.payload.get('gate')}")
            yield from (Finding(event.id, self.gate, what) for what in found)

    def opened(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:
        if self.state != "new":
            yield "the gate was opened already"
        self.gate, self.state = event.id, "open"
        self.policy, self.deadline = Policy.parse(payload["policy"]), payload["deadline"]
        yield from self.seen(payload)

    def seen(self, payload: Mapping[str, Any]) -> Iterator[str]:
        items = [EvidenceItem(**item) for item in payload["evidence"]]
        if evidence_digest(items, payload["blockers"]) != payload["evidence_digest"]:
            yield "the digest is not that of the evidence"
        self.evidence, self.blocked, self.votes = payload["evidence_digest"], bool(payload["blockers"]), {}

    def changed(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG002 - one shape for all steps
        if self.state not in ("open", "go") or self.used:
            yield f"the gate was {self.state}, its evidence was settled"
        self.state = "open"
        yield from self.seen(payload)

    def voted(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:
        who = event.actor
        if self.state != "open":
            yield f"a vote on a gate that was {self.state}"
        if who in self.policy.excluded:
            yield f"{who} may not decide: {self.policy.excluded[who]}"
        if not self.policy.roles_of(who):
            yield f"{who} holds none of the roles"
        if _moment(payload["at"]) >= _moment(self.deadline):
            yield "the time to answer was over"
        if payload["evidence_digest"] != self.evidence:
            yield "a vote on other evidence"
        if payload["decision"] == "go" and self.blocked:
            yield "a Go while a blocker stood"
        if not str(payload["reason"] or "").strip():
            yield "a vote without a reason"
        self.votes.pop(who, None)
        self.votes[who] = payload["decision"]

    def revoked(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG002 - one shape for all steps
        if self.used:
            yield "revoked after the decision was used"
        if self.votes.pop(event.actor, None) is None:
            yield f"{event.actor} had no vote that stood"

    def decided(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:
        if self.state != "open":
            yield f"decided while {self.state}"
        if payload["evidence_digest"] != self.evidence:
            yield "decided on other evidence"
        if payload["decision"] == "go":
            if not fills(self.policy, self._in_favour()):
                yield f"the votes of {', '.join(self._in_favour()) or 'nobody'} do not fill the roles"
        elif self.votes.get(event.actor) != "no_go":
            yield f"{event.actor} had not said No-Go"
        self.state, self.valid_until = payload["decision"], payload.get("valid_until", "")

    def reopened(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG002 - one shape for all steps
        if self.state not in ("go", "no_go") or self.used:
            yield f"opened again while {self.state}"
        if self.state == "go" and fills(self.policy, self._in_favour()):
            yield "opened again although the votes still filled the roles"
        self.state = "open"

    def consumed(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG002 - one shape for all steps
        if self.used:
            yield "used a second time"
        if payload["answer"] != self.state:
            yield f"used as {payload['answer']} while {self.state}"
        if self.state == "go":
            if _moment(payload["at"]) >= _moment(self.valid_until):
                yield "a Go that had lapsed was used"
            if payload["evidence_digest"] != self.evidence:
                yield "used on other evidence"
            if not fills(self.policy, self._in_favour()):
                yield "used without the votes that it needs"
        self.used = True

    def expired(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG002 - one shape for all steps
        due = self.valid_until if self.state == "go" else self.deadline
        if self.state not in ("open", "go") or self.used:
            yield f"expired while {self.state}"
        elif _moment(payload["at"]) < _moment(due):
            yield "expired before its time"
        self.state = "expired"

    def withdrawn(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG002 - one shape for all steps
        if self.state not in ("open", "go", "no_go") or self.used:
            yield f"withdrawn while {self.state}"
        self.state = "withdrawn"

    def noted(self, event: Event, payload: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG002 - one shape for all steps
        yield from ()

    def _in_favour(self) -> list[str]:
        return [who for who, decision in self.votes.items() if decision == "go"]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


_STEPS: Mapping[str, Callable[[_Story, Event, Mapping[str, Any]], Iterator[str]]] = {
    EventType.GATE_OPENED: _Story.opened,
    EventType.GATE_EVIDENCE_CHANGED: _Story.changed,
    EventType.GATE_VOTE_CAST: _Story.voted,
    EventType.GATE_VOTE_REVOKED: _Story.revoked,
    EventType.GATE_VOTE_REFUSED: _Story.noted,
    EventType.GATE_DECIDED: _Story.decided,
    EventType.GATE_REOPENED: _Story.reopened,
    EventType.GATE_CONSUMED: _Story.consumed,
    EventType.GATE_EXPIRED: _Story.expired,
    EventType.GATE_REMINDED: _Story.noted,
    EventType.GATE_WITHDRAWN: _Story.withdrawn,
}
