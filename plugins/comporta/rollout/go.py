"""The Go that lets a rollout touch the target: a decision of the gate ``rollout``, used by this run, and still in
force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from comporta.gates import Gate, GateBook
from comporta.gates.errors import UnknownGate
from comporta.gates.evidence import Collector
from comporta.gates.gate import GateRequest
from comporta.gates.policy import policy_of
from comporta.ledger import Ledger
from comporta.release.model import Release
from comporta.rollout.errors import RolloutRefused
from comporta.settings import Settings

GATE = "rollout"
Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Go:
    """A decision by the number of its gate; whether it is in force is asked anew each time."""

    control_dsn: str
    gate: int | None
    consumer_prefix: str

    def refusals(self) -> list[str]:
        """Why it does not let this run touch the target now; empty when it does."""
        if self.gate is None:
            return ["no Go was given to this run"]
        with GateBook(self.control_dsn) as book:
            book.sweep()
            try:
                gate = book.get(self.gate)
            except UnknownGate as error:
                return [error.message]
            now = ledger_now(self.control_dsn)
        if gate.state != "go":
            return [f"gate {gate.gate} says {gate.word}, not Go"]
        if not (gate.consumed_by or "").startswith(self.consumer_prefix):
            return [f"the Go of gate {gate.gate} was used by {gate.consumed_by or 'nobody'}, not by this run"]
        if gate.valid_until is not None and gate.valid_until <= now:
            return [f"the Go of gate {gate.gate} was in force until {gate.valid_until:%Y-%m-%d %H:%M} UTC: ask again"]
        return []


def ledger_now(control_dsn: str) -> datetime:
    """The time by the control database's own clock, by which gates expire."""
    with Ledger(control_dsn) as ledger:
        row = ledger.connection.execute("select comporta.now()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now.astimezone(UTC)


def use_or_ask(settings: Settings, release: Release, *, run: str, login: str) -> Go:
    """The newest unused Go of the gate, used by ``run`` from here on; where there is none, the question is put, and
    RolloutRefused says who has to answer. ``login`` started the run, and is kept from deciding on it."""
    file, control = policy_of(settings), settings.require("control")
    with GateBook(control) as book:
        for gate in book.list(name=GATE, states=("go",), limit=20):
            if gate.consumed_by is not None and not gate.consumed_by.startswith(run):
                continue
            found = Collector(settings, file).of(gate.name, gate.kind, gate.asked_by)
            now = book.renew(gate.gate, found.items, found.blockers, actor=login)
            outcome = book.consume(now.gate, run, evidence_digest=found.digest)
            if outcome.word == "go":
                return Go(control, gate.gate, run)
        asked = _ask(settings, release, book, login)
    raise RolloutRefused("the rollout", _waiting(asked), remedy=_remedy(asked))


def _ask(settings: Settings, release: Release, book: GateBook, login: str) -> Gate:
    file = policy_of(settings)
    plan = file.plan(GATE)
    asked_by: dict[str, Any] = {"command": "comporta rollout", "login": login}
    evidence = Collector(settings, file).of(GATE, "decision", asked_by)
    asker = f"cli/{login}/{GATE}"
    open_already = book.list(name=GATE, states=("open",), asker_prefix=asker, limit=1)
    if open_already:
        return book.renew(open_already[0].gate, evidence.items, evidence.blockers, actor=login)
    request = GateRequest(
        name=GATE,
        question=plan.question,
        feature=release.name,
        asker=asker,
        asked_by=asked_by,
        policy=file.policy(GATE, author=release.author, trigger=login),
        evidence=evidence.items,
        blockers=evidence.blockers,
        answer_within_s=plan.answer_within_h * 3600,
        holds_for_s=int(plan.holds_for_h * 3600),
        remind_after_s=tuple(60 * minutes for minutes in plan.remind_after_min),
    )
    # The time keeps one question apart from the next: a key that was answered is not asked again.
    return book.open(f"{asker}/{ledger_now(settings.require('control')):%Y%m%dT%H%M%S}", request, actor=login)


def _waiting(gate: Gate) -> list[str]:
    missing = [f"{each.count} x {each.role} ({' or '.join(each.holders) or 'nobody'})" for each in gate.missing]
    return [
        f"no Go is in force: gate {gate.gate} asks for it and waits for {', '.join(missing) or 'its evidence'}",
        *(f"in the way of a Go: {each}" for each in gate.blockers),
    ]


def _remedy(gate: Gate) -> str:
    return f"Let them answer (`comporta gates show {gate.gate}`, or the Gates page), then start again. The target was only read."
