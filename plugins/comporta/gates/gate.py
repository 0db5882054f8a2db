"""A gate as it stands, what is asked to open one, and what a decision refers to. Values only: the rules are in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from comporta.gates.errors import RefusalCode

Decision = Literal["go", "no_go"]
Kind = Literal["decision", "readiness"]
State = Literal["open", "go", "no_go", "expired", "withdrawn"]
Word = Literal["go", "no_go", "expired", "withdrawn", "waiting", "evidence_changed", "consumed_elsewhere"]

WORDS: Mapping[tuple[Kind, State], str] = {
    ("decision", "open"): "open",
    ("decision", "go"): "Go",
    ("decision", "no_go"): "No-Go",
    ("decision", "expired"): "expired",
    ("decision", "withdrawn"): "withdrawn",
    ("readiness", "open"): "open",
    ("readiness", "go"): "Ready",
    ("readiness", "no_go"): "Blocker",
    ("readiness", "expired"): "Blocker (silent)",
    ("readiness", "withdrawn"): "withdrawn",
}


@dataclass(frozen=True)
class EvidenceItem:
    """One thing that a decision rests on: ``digest`` says whether it is still the same, ``link`` is a page under archives/."""

    name: str
    title: str
    digest: str
    link: str | None = None
    detail: str = ""


def evidence_digest(items: Iterable[EvidenceItem], blockers: Iterable[str]) -> str:
    """The same digest as the database's ``comporta.evidence_digest``: names with digests, and blockers, in byte order."""
    lines = sorted((item.name.encode(), f"{item.name} {item.digest}\n".encode()) for item in items)
    stops = sorted(blocker.encode() for blocker in blockers)
    whole = b"".join([*(line for _, line in lines), *(b"! " + stop + b"\n" for stop in stops)])
    return hashlib.sha256(whole).hexdigest()


@dataclass(frozen=True)
class Need:
    """So many people of a role must say Go."""

    role: str
    count: int = 1


@dataclass(frozen=True)
class Missing:
    """A role of which still so many are missing, and who could fill it."""

    role: str
    count: int
    holders: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """Who decides: needs, who holds each role, and who may not whatever they hold (login -> why)."""

    needs: tuple[Need, ...]
    holders: Mapping[str, tuple[str, ...]]
    excluded: Mapping[str, str] = field(default_factory=dict)

    def roles_of(self, login: str) -> tuple[str, ...]:
        """The roles of this gate that a person holds."""
        return tuple(need.role for need in self.needs if login in self.holders.get(need.role, ()))

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """From the JSON that the ledger keeps."""
        return cls(
            needs=tuple(Need(need["role"], int(need["count"])) for need in raw["needs"]),
            holders={role: tuple(people) for role, people in raw["holders"].items()},
            excluded=dict(raw.get("excluded") or {}),
        )


@dataclass(frozen=True)
class Vote:
    """A vote that stands. ``role`` is the place that it fills in the best assignment, None when it fills none."""

    actor: str
    decision: Decision
    reason: str
    at: str
    via: str
    role: str | None = None


@dataclass(frozen=True)
class GateRequest:
    """A question to be put: to whom, on what evidence, for how long."""

    name: str
    question: str
    feature: str
    asker: str
    asked_by: Mapping[str, Any]
    policy: Policy
    evidence: tuple[EvidenceItem, ...]
    blockers: tuple[str, ...] = ()
    kind: Kind = "decision"
    answer_within_s: float = 24 * 3600
    holds_for_s: int = 24 * 3600
    remind_after_s: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate as the ledger has it; ``gate`` is the id of the event that opened it, and what people call it."""

    gate: int
    stream: str
    name: str
    kind: Kind
    question: str
    feature: str
    asker: str
    asked_by: Mapping[str, Any]
    policy: Policy
    opened_at: datetime
    deadline: datetime
    remind_after_s: tuple[int, ...]
    reminded: int
    evidence: tuple[EvidenceItem, ...]
    evidence_digest: str
    blockers: tuple[str, ...]
    revision: int
    changes: tuple[str, ...]
    votes: tuple[Vote, ...]
    missing: tuple[Missing, ...]
    state: State
    decision: Mapping[str, Any] | None
    valid_until: datetime | None
    consumed_by: str | None
    consumed_at: datetime | None
    digest: str

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """From a row of ``comporta.gate`` with ``places`` beside it (gate.sql)."""
        policy = Policy.parse(row["policy"])
        filled = {place["actor"]: place["role"] for place in row["places"] if place["actor"] is not None}
        empty = [place["role"] for place in row["places"] if place["actor"] is None]
        votes = tuple(
            Vote(**vote, role=filled.get(vote["actor"]) if vote["decision"] == "go" else None) for vote in row["votes"]
        )
        voted = {vote.actor for vote in votes if vote.decision == "go"}
        missing = tuple(
            Missing(
                role,
                empty.count(role),
                tuple(who for who in policy.holders.get(role, ()) if who not in voted and who not in policy.excluded),
            )
            for role in dict.fromkeys(empty)
        )
        plain = ("gate", "stream", "name", "kind", "question", "feature", "asker", "asked_by", "reminded", "revision")
        times = ("opened_at", "deadline", "valid_until", "consumed_at")
        values: dict[str, Any] = {name: row[name] for name in plain}
        values |= {name: row[name].astimezone(UTC) if row[name] else None for name in times}
        return cls(
            **values,
            policy=policy,
            remind_after_s=tuple(row["remind_after_s"]),
            evidence=tuple(EvidenceItem(**item) for item in row["evidence"]),
            evidence_digest=row["evidence_digest"],
            blockers=tuple(row["blockers"]),
            changes=tuple(row["changes"]),
            votes=votes,
            missing=missing,
            state=row["state"],
            decision=row["decision"],
            consumed_by=row["consumed_by"],
            digest=row["digest"],
        )

    @property
    def word(self) -> str:
        """Its state in the words of its kind: Go, No-Go, Ready, Blocker."""
        return WORDS[self.kind, self.state]

    @property
    def silent(self) -> tuple[str, ...]:
        """Who could have answered and has not."""
        answered = {vote.actor for vote in self.votes}
        holders = dict.fromkeys(who for people in self.policy.holders.values() for who in people)
        return tuple(who for who in holders if who not in answered and who not in self.policy.excluded)

    def why_not(self, login: str) -> str:
        """Why a person may not vote here, as far as the person is concerned; empty when they may."""
        if login in self.policy.excluded:
            return f"{login} may not decide this gate: {self.policy.excluded[login]}"
        if not self.policy.roles_of(login):
            roles = ", ".join(need.role for need in self.policy.needs)
            return f"{login} holds none of the roles that decide this gate ({roles})"
        return ""

    def as_json(self) -> dict[str, Any]:
        """Plain values; times in ISO 8601 with their offset."""
        plain = asdict(self)
        plain.pop("stream")
        for name in ("opened_at", "deadline", "valid_until", "consumed_at"):
            plain[name] = plain[name] and plain[name].isoformat()
        return plain


@dataclass(frozen=True)
class Choice:
    """A gate as a person saw it: its number, and the digest of what was shown."""

    gate: int
    digest: str


def list_digest(shown: Sequence[Choice]) -> str:
    """sha256 over a list of gates in the order in which it was drawn: what a decision on several gates refers to."""
    return hashlib.sha256("".join(f"{each.gate}:{each.digest}\n" for each in shown).encode()).hexdigest()


@dataclass(frozen=True)
class Refusal:
    """Why a vote on a gate was not cast, and what can be done. ``gate`` is None for the whole list."""

    gate: int | None
    code: RefusalCode
    why: str
    remedy: str

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """From what the database answers."""
        return cls(raw["gate"], RefusalCode(raw["code"]), raw["why"], raw["remedy"])


@dataclass(frozen=True)
class BatchResult:
    """One click on several gates: which votes were cast, which were refused and why. ``list_refused``: nothing was looked at."""

    batch: str
    decided: tuple[Gate, ...]
    refused: tuple[Refusal, ...]
    list_refused: Refusal | None = None


@dataclass(frozen=True)
class Outcome:
    """What a gate answers to the one who asked, and the gate as it then is."""

    word: Word
    gate: Gate

    @property
    def why(self) -> str:
        """The answer in plain words, with who and why."""
        gate = self.gate
        if self.word == "waiting":
            lacking = ", ".join(f"{each.count} × {each.role}" for each in gate.missing)
            return f"gate {gate.gate} {gate.name} waits for {lacking or 'an answer'}, until {gate.deadline:%Y-%m-%d %H:%M} UTC"
        if self.word == "expired":
            return f"gate {gate.gate} {gate.name}: no Go in time; silence is never a yes"
        if self.word == "evidence_changed":
            return (
                f"gate {gate.gate} {gate.name}: the evidence changed since: {'; '.join(gate.changes) or 'see the gate'}"
            )
        if self.word == "consumed_elsewhere":
            return f"gate {gate.gate} {gate.name}: its decision was used by {gate.consumed_by}"
        decided = gate.decision
        if decided is None:
            return f"gate {gate.gate} {gate.name}: {gate.word}"
        people = ", ".join(dict.fromkeys(decided["by"]))
        return f"gate {gate.gate} {gate.name}: {gate.word} by {people}: {decided['reason']}"
