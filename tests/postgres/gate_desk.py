"""What tests of gates share: a request, a clock that a test sets, and one call for each verb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from comporta.gates import Choice, Decision, EvidenceItem, Gate, GateBook, GateRequest, Need, Policy, list_digest
from comporta.gates.gate import evidence_digest
from comporta.ledger import migrate

# The database's clock is replaced by the owner, as nobody else could. It is read by its key: the ledger's functions scan no table.
CLOCK = """
create table public.test_clock (nth integer primary key, now timestamptz not null);
insert into public.test_clock values (1, '2026-11-24 10:00:00+00');
grant select on public.test_clock to public;
create or replace function comporta.now() returns timestamptz language sql volatile
    return (select now from public.test_clock where nth = 1);
"""

SCRIPTS = EvidenceItem("scripts", "Scripts of the release", "a" * 64)
PROOFS = EvidenceItem("rollback_proofs", "STAGE 3 report", "b" * 64, link="2026-11-24/stage3-x/report.html")
FOUR = Policy(
    needs=(Need("CFO"), Need("PO"), Need("Compliance"), Need("Security")),
    holders={"CFO": ("cfo",), "PO": ("po",), "Compliance": ("compliance",), "Security": ("security",)},
    excluded={"dba": "author of the release"},
)
ONE = Policy(needs=(Need("PO"),), holders={"PO": ("po", "deputy")})


def request(
    name: str = "rollout", *, asker: str = "rollout/run1/gate/-1", policy: Policy = ONE, **more: Any
) -> GateRequest:
    made = GateRequest(
        name=name,
        question="May the release go to production?",
        feature="catalogue",
        asker=asker,
        asked_by=dict(zip(("dag_id", "run_id", "task_id", "map_index"), asker.split("/"), strict=True)),
        policy=policy,
        evidence=(SCRIPTS, PROOFS),
        answer_within_s=7200,
        holds_for_s=86400,
        remind_after_s=(3600, 5400),
    )
    return replace(made, **more)


@dataclass
class Desk:
    """The gates of one control database, with the short calls that tests want."""

    book: GateBook
    owner: psycopg.Connection

    def open(self, key: str = "k", **more: Any) -> Gate:
        return self.book.open(key, request(**more), actor="airflow:scheduler")

    def vote(self, gate: Gate, actor: str, decision: Decision = "go", reason: str = "looked at it") -> Gate:
        """A vote on the gate as the caller holds it."""
        return self.book.vote(gate.gate, decision, actor=actor, reason=reason, digest=gate.digest, via="test")

    def use(self, gate: Gate, consumer: str | None = "rollout/run1/gate/-1/0", digest: str | None = None) -> str:
        evidence = digest or evidence_digest(self.book.get(gate.gate).evidence, self.book.get(gate.gate).blockers)
        return self.book.consume(gate.gate, consumer, evidence_digest=evidence).word

    def pass_time(self, seconds: float) -> None:
        self.owner.execute("update public.test_clock set now = now + make_interval(secs => %s)", [seconds])

    def event_types(self, gate: Gate) -> list[str]:
        return [event.event_type for event in self.book.history(gate.gate)]


@contextmanager
def open_desk(control: str) -> Iterator[Desk]:
    """A migrated control database whose clock stands at 2026-11-24 10:00 UTC until a test moves it."""
    with psycopg.connect(control, autocommit=True) as owner:
        migrate(owner)
        owner.execute(CLOCK)
        with GateBook(control) as book:
            yield Desk(book, owner)


def choices(*gates: Gate) -> tuple[list[Choice], str]:
    shown = [Choice(gate.gate, gate.digest) for gate in gates]
    return shown, list_digest(shown)
