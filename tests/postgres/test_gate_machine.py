"""No order of events lets through what nobody was entitled to let through.

A model of the policy, written apart from the database's and by other means (it tries every assignment of people to places), says
of each call what must come of it; hypothesis looks for a sequence in which the database says something else. ``GATE_STEPS=1000000``
runs as many steps as that; the default is 100,000.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from psycopg.types.json import Jsonb
from tests.postgres.gate_desk import Desk, open_desk

from comporta.gates.audit import audit
from comporta.gates.gate import Choice, EvidenceItem, evidence_digest, list_digest

STEPS = int(os.environ.get("GATE_STEPS", "100000"))
STEPS_A_RUN = 200
ANSWER_WITHIN_S, HOLDS_FOR_S = 1_000, 500

PEOPLE = ("ana", "bia", "caio", "davi", "eva")
ROLES = ("CFO", "PO", "Security")
EVIDENCES = tuple((EvidenceItem("scripts", "Scripts", digit * 64),) for digit in "123")
BLOCKERS = ((), (), ("a proof is stale",))
CONSUMERS = ("run1", "run2", None)
ASKERS = ("a", "b", "c")

# Each run of the machine asks as somebody new, since it starts over on the same database.
PREFIXES = itertools.count()

people = st.sampled_from(PEOPLE)
holders = st.fixed_dictionaries({role: st.lists(people, min_size=1, max_size=4, unique=True) for role in ROLES})
needs = st.lists(st.sampled_from(ROLES), min_size=1, max_size=4)
policies = st.tuples(needs, holders, st.lists(people, max_size=2, unique=True))
numbers = st.integers(0, 5)


def can_fill(places: list[str], held: dict[str, list[str]], voters: list[str]) -> bool:
    """Try every way of seating voters; small enough here, and nothing that could be wrong in the same way."""
    return any(
        all(seat in held[place] for place, seat in zip(places, seats, strict=True))
        for seats in itertools.permutations(voters, len(places))
    )


@dataclass
class Expected:
    """What the model knows of one gate."""

    gate: int
    asker: str
    places: list[str]
    held: dict[str, list[str]]
    excluded: list[str]
    evidence: tuple[EvidenceItem, ...]
    blockers: tuple[str, ...]
    deadline: int
    digest: str
    state: str = "open"
    valid_until: int = 0
    votes: dict[str, str] = field(default_factory=dict)
    said_no: str | None = None
    consumed_by: str | None = None
    uses: int = 0

    @property
    def now_digest(self) -> str:
        return evidence_digest(self.evidence, self.blockers)

    def in_favour(self) -> list[str]:
        return [who for who, decision in self.votes.items() if decision == "go"]

    def quorum(self) -> bool:
        return can_fill(self.places, self.held, self.in_favour())

    def refusal(self, actor: str, decision: str, reason: str, seen: str, now: int) -> str | None:
        over = self.state == "expired" or (self.state == "open" and now >= self.deadline)
        rules = {
            "expired": over,
            "closed": self.state in ("withdrawn", "go", "no_go"),
            "excluded": actor in self.excluded,
            "no_role": not any(actor in self.held[place] for place in self.places),
            "evidence_changed": seen != self.digest,
            "reason_missing": not reason.strip(),
            "blocked": decision == "go" and bool(self.blockers),
        }
        return next((code for code, broken in rules.items() if broken), None)

    def take(self, actor: str, decision: str, now: int) -> None:
        self.votes.pop(actor, None)
        self.votes[actor] = decision
        if decision == "no_go":
            self.state, self.said_no = "no_go", actor
        elif self.quorum():
            self.state, self.valid_until = "go", now + HOLDS_FOR_S


def machine(desk: Desk, counted: Callable[[], None]) -> type[RuleBasedStateMachine]:
    """The state machine over one control database; several connections take turns in the order that hypothesis finds."""
    connections = itertools.cycle([desk.book._ledger.connection, desk.owner])

    def call(function: str, *values: Any) -> Any:
        places = ", ".join(["%s"] * len(values))
        row = (
            next(connections).execute(f"select comporta.{function}({places})".encode(), values, prepare=True).fetchone()
        )
        counted()
        return row[0] if row else None

    class Gates(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.gates: list[Expected] = []
            self.prefix = f"m{next(PREFIXES)}"
            self.now = 0
            self.digests: list[str] = ["0" * 64]

        def pick(self, number: int) -> Expected | None:
            return self.gates[-1 - number % len(self.gates)] if self.gates else None

        @rule(
            policy=policies,
            asker=st.sampled_from(ASKERS),
            evidence=st.sampled_from(EVIDENCES),
            stop=st.sampled_from(BLOCKERS),
        )
        def open(self, policy: Any, asker: str, evidence: Any, stop: tuple[str, ...]) -> None:
            places, held, excluded = policy
            held = {role: held[role] for role in places}
            request = {
                "name": "g", "kind": "decision", "question": "?", "feature": "f", "asker": f"{self.prefix}{asker}", "asked_by": {},
                "policy": {
                    "needs": [{"role": role, "count": places.count(role)} for role in dict.fromkeys(places)],
                    "holders": held, "excluded": dict.fromkeys(excluded, "x"),
                },
                "evidence": [vars(item) for item in evidence], "blockers": list(stop),
                "answer_within_s": ANSWER_WITHIN_S, "holds_for_s": HOLDS_FOR_S, "remind_after_s": [300],
            }  # fmt: skip
            key = f"{self.prefix}/{len(self.gates)}"
            eligible = [who for who in PEOPLE if who not in excluded]
            if not can_fill(places, held, eligible):
                with pytest.raises(psycopg.Error) as refused:
                    call("gate_open", key, Jsonb(request), "task")
                assert refused.value.sqlstate == "LG011"
                return
            gate = call("gate_open", key, Jsonb(request), "task")
            for former in self.gates:
                if former.asker == asker and former.state in ("open", "go", "no_go") and former.consumed_by is None:
                    former.state = "withdrawn"
            digest = row_of(desk, gate)["digest"]
            self.digests.append(digest)
            self.gates.append(
                Expected(gate, asker, places, held, excluded, evidence, stop, self.now + ANSWER_WITHIN_S, digest)
            )

        @rule(
            chosen=st.lists(numbers, min_size=1, max_size=3, unique=True), actor=people,
            decision=st.sampled_from(("go", "go", "go", "no_go")), reason=st.sampled_from(("seen", "seen", "seen", " ")),
            stale=st.sampled_from((None, None, None, None, 0, 1, 2)), atomic=st.booleans(),
        )  # fmt: skip
        def decide(
            self, chosen: list[int], actor: str, decision: str, reason: str, stale: int | None, atomic: bool
        ) -> None:
            found = list({gate.gate: gate for number in chosen if (gate := self.pick(number))}.values())
            if not found:
                return
            # Also what was shown of another gate, or of this one before its evidence changed.
            seen = [gate.digest if stale is None else self.digests[-1 - stale % len(self.digests)] for gate in found]
            self.cast(found, seen, actor, decision, reason, atomic)

        def cast(
            self, gates: list[Expected], seen: list[str], actor: str, decision: str, reason: str, atomic: bool
        ) -> None:
            shown = [Choice(gate.gate, digest) for gate, digest in zip(gates, seen, strict=True)]
            plain = Jsonb([vars(choice) for choice in shown])
            answer = call("gate_decide", plain, decision, actor, reason, "test", plain, list_digest(shown), atomic)
            refusals = [
                gate.refusal(actor, decision, reason, digest, self.now)
                for gate, digest in zip(gates, seen, strict=True)
            ]
            if atomic and any(refusals):
                refusals = [refusal or "atomic" for refusal in refusals]
            able = [gate for gate, refusal in zip(gates, refusals, strict=True) if refusal is None]
            expected = {gate.gate: code for gate, code in zip(gates, refusals, strict=True) if code}
            assert {each["gate"]: each["code"] for each in answer["refused"]} == expected
            assert set(answer["decided"]) == {gate.gate for gate in able}
            for gate in able:
                gate.take(actor, decision, self.now)

        @rule(number=numbers)
        def agree(self, number: int) -> None:
            """Everybody says Go, one after the other: what chance alone would seldom bring about."""
            if (gate := self.pick(number)) is not None:
                for who in PEOPLE:
                    if gate.refusal(who, "go", "seen", gate.digest, self.now) is None:
                        self.cast([gate], [gate.digest], who, "go", "seen", False)

        @rule(number=numbers, actor=people, own=st.booleans())
        def revoke(self, number: int, actor: str, own: bool) -> None:
            if (gate := self.pick(number)) is None:
                return
            if own and gate.votes:
                actor = sorted(gate.votes)[number % len(gate.votes)]
            answer = call("gate_revoke", gate.gate, actor, "second thoughts", "test")
            code = answer and answer["code"]
            if gate.consumed_by is not None:
                assert code == "consumed"
            elif gate.state in ("expired", "withdrawn"):
                assert code == "closed"
            elif actor not in gate.votes:
                assert code == "no_vote"
            else:
                assert code is None
                del gate.votes[actor]
                if (gate.state == "no_go" and gate.said_no == actor) or (gate.state == "go" and not gate.quorum()):
                    gate.state = "open"

        @rule(number=numbers, evidence=st.sampled_from(EVIDENCES), stop=st.sampled_from(BLOCKERS))
        def renew(self, number: int, evidence: Any, stop: tuple[str, ...]) -> None:
            if (gate := self.pick(number)) is None:
                return
            changed = call("gate_renew", gate.gate, Jsonb([vars(item) for item in evidence]), Jsonb(list(stop)), "task")
            differs = gate.now_digest != evidence_digest(evidence, stop)
            assert changed == (differs and gate.state in ("open", "go") and gate.consumed_by is None)
            if changed:
                gate.evidence, gate.blockers, gate.votes, gate.state = evidence, stop, {}, "open"
                gate.digest = row_of(desk, gate.gate)["digest"]
                self.digests.append(gate.digest)

        @rule(number=numbers, consumer=st.sampled_from(CONSUMERS), wrong=st.sampled_from((False, False, False, True)))
        def consume(self, number: int, consumer: str | None, wrong: bool) -> None:
            if (gate := self.pick(number)) is None:
                return
            word = call("gate_consume", gate.gate, consumer, "0" * 64 if wrong else gate.now_digest)
            if gate.consumed_by is not None:
                assert word == (gate.state if consumer in (None, gate.consumed_by) else "consumed_elsewhere")
                return
            if gate.state == "open" and self.now < gate.deadline:
                assert word == "waiting"
                return
            if gate.state == "withdrawn":
                assert word == "withdrawn"
                return
            if gate.state == "open" or (gate.state == "go" and self.now >= gate.valid_until):
                gate.state = "expired"
            elif gate.state == "go" and wrong:
                assert word == "evidence_changed"
                return
            assert word == gate.state
            if word == "go":
                assert gate.quorum()
                assert not gate.blockers
                assert not set(gate.excluded) & set(gate.in_favour())
            gate.consumed_by = consumer
            gate.uses += consumer is not None

        @rule(seconds=st.sampled_from((10, 100, 400, 600)))
        def pass_time(self, seconds: int) -> None:
            self.now += seconds
            desk.pass_time(seconds)
            counted()

        @rule()
        def sweep(self) -> None:
            call("gate_sweep")
            for gate in self.gates:
                if gate.consumed_by is None and (
                    (gate.state == "open" and self.now >= gate.deadline)
                    or (gate.state == "go" and self.now >= gate.valid_until)
                ):
                    gate.state = "expired"

        @invariant()
        def nothing_is_used_twice(self) -> None:
            assert all(gate.uses <= 1 for gate in self.gates)

        def teardown(self) -> None:
            if not self.gates:
                return
            rows = {row["gate"]: row for row in rows_of(desk, [gate.gate for gate in self.gates])}
            for gate in self.gates:
                row = rows[gate.gate]
                assert (row["state"], row["consumed_by"]) == (gate.state, gate.consumed_by)
                assert {vote["actor"]: vote["decision"] for vote in row["votes"]} == gate.votes
            stories = (event for row in rows.values() for event in desk.book._ledger.read(row["stream"]))
            assert list(audit(stories)) == []
            differing = desk.owner.execute(
                "select * from comporta.gate where gate = any (%(gates)s) except"
                " select * from comporta.gate_as_of(9223372036854775807) f where f.stream in"
                " (select stream from comporta.gate where gate = any (%(gates)s))",
                {"gates": [gate.gate for gate in self.gates]},
            ).fetchall()
            assert differing == []
            desk.pass_time(10 * HOLDS_FOR_S)  # what stays open would be swept again and again by those to come
            call("gate_sweep")

    return Gates


def rows_of(desk: Desk, gates: list[int]) -> list[dict[str, Any]]:
    with desk.owner.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute("select * from comporta.gate where gate = any (%s)", [gates]).fetchall()


def row_of(desk: Desk, gate: int) -> dict[str, Any]:
    return rows_of(desk, [gate])[0]


@pytest.fixture
def desk(control: str) -> Iterator[Desk]:
    with open_desk(control) as made:
        yield made


class Counter:
    """How many calls were made."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self) -> None:
        self.steps += 1


def run(desk: Desk, steps: int, *phases: Phase, repeatable: bool = False) -> int:
    """Run until so many calls were made; an error of the machine's assertions when the database says something else."""
    counter = Counter()
    while counter.steps < steps:
        options = settings(
            max_examples=max(1, (steps - counter.steps) // STEPS_A_RUN),
            stateful_step_count=STEPS_A_RUN,
            deadline=None,
            database=None,
            phases=phases,
            derandomize=repeatable,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(machine(desk, counter), settings=options)  # type: ignore[no-untyped-call]
    return counter.steps


@pytest.mark.timeout(max(900, STEPS // 50))
def test_no_sequence_of_calls_gets_past_the_policy(desk: Desk) -> None:
    print(f"{run(desk, STEPS, Phase.generate, Phase.shrink):,} steps, 0 violations")


# One rule of the database's functions taken out at a time: (function, text, what it becomes).
MUTANTS = {
    "who is excluded may vote": ("gate_refusal", "g.policy -> 'excluded' ? actor", "false"),
    "anybody may vote": (
        "gate_refusal",
        "not exists (select from jsonb_each(g.policy -> 'holders') role (name, people) where role.people ? actor)",
        "false",
    ),
    "stale evidence counts": ("gate_refusal", "seen is distinct from g.digest", "false"),
    "late votes count": ("gate_refusal", "(g.state = 'open' and at >= g.deadline)", "false"),
    "blockers are ignored": ("gate_refusal", "decision = 'go' and g.blockers <> '[]'", "false"),
    "one vote is enough": ("gate_decide", "if array_position(places, null) is null then", "if true then"),
    "one person fills several places": (
        "match_votes",
        "if matched[place] is null then",
        "matched[place] := mover;\n                if true then",
    ),
    "first come, first served": ("match_votes", "queue := queue || place;", "null;"),
    "a decision is used twice": ("gate_consume", "if g.consumed_by is not null then", "if false then"),
    "a lapsed Go is used": ("gate_consume", "(g.state = 'go' and at >= g.valid_until)", "false"),
    "a decision on other evidence is used": ("gate_consume", "g.evidence_digest is distinct from evidence_now", "false"),
    "a used decision is revoked": ("gate_revoke", "if g.consumed_by is not null then", "if false then"),
    "a revoked vote leaves the decision": (
        "gate_revoke",
        "if (g.state = 'no_go' and g.decision -> 'by' ? actor)\n       or (g.state = 'go'",
        "if false and (g.state = 'go'",
    ),
    "an old question stays open": ("gate_open", "state in ('open', 'go', 'no_go') and consumed_by is null", "false"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "rule", "becomes"), MUTANTS.values(), ids=list(MUTANTS))
def test_the_machine_notices_a_rule_that_is_missing(
    desk: Desk, project: Path, function: str, rule: str, becomes: str
) -> None:
    source = (project / "sql/control/0004_gates.sql").read_text(encoding="utf-8")
    start = source.index(f"create function comporta.{function}(")
    body = source[start : source.index("\n$$;", start) + 4]
    assert body.count(rule) == 1
    desk.owner.execute(body.replace(rule, becomes).replace("create function", "create or replace function").encode())
    with pytest.raises((AssertionError, psycopg.Error, BaseExceptionGroup)):  # several findings come as a group
        run(desk, 20_000, Phase.generate, repeatable=True)
