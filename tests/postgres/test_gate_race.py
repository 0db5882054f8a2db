"""Many people and runs at once: whatever the order turns out to be, an auditor finds nothing that should not be there."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.postgres.gate_desk import Desk, choices, open_desk, request

from comporta.gates import EvidenceItem, Gate, GateBook, GateRefusal, Need, Policy
from comporta.gates.audit import audit, fills
from comporta.gates.gate import evidence_digest

PEOPLE = ("ana", "bia", "caio", "davi")
POLICY = Policy(
    (Need("CFO"), Need("PO", 2)),
    {"CFO": ("ana", "bia"), "PO": ("bia", "caio", "davi")},
    excluded={"davi": "author of the release"},
)
EVIDENCES = tuple((EvidenceItem("scripts", "Scripts", digit * 64),) for digit in "12")


@pytest.fixture
def desk(control: str) -> Iterator[Desk]:
    with open_desk(control) as made:
        yield made


def act(control: str, gates: list[Gate], seed: int, trouble: list[BaseException]) -> None:
    """One busy client: votes on what it last saw, changes evidence, revokes, and uses decisions as one of several runs."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable choice, not a secret
    try:
        with GateBook(control) as book:
            for _ in range(150):
                gate = book.get(chance.choice(gates).gate)
                who = chance.choice(PEOPLE)
                verb = chance.choices(("vote", "renew", "revoke", "consume", "several"), (8, 1, 1, 3, 2))[0]
                try:
                    _do(book, verb, gate, who, chance, gates)
                except GateRefusal:
                    continue
    except BaseException as error:
        trouble.append(error)


def _do(book: GateBook, verb: str, gate: Gate, who: str, chance: random.Random, gates: list[Gate]) -> None:
    match verb:
        case "vote":
            decision = chance.choices(("go", "no_go"), (30, 1))[0]
            book.vote(gate.gate, decision, actor=who, reason="seen", digest=gate.digest, via="test")  # type: ignore[arg-type]
        case "renew":
            book.renew(gate.gate, chance.choice(EVIDENCES), (), actor="task")
        case "revoke":
            book.revoke(gate.gate, actor=who, reason="second thoughts", via="test")
        case "consume":
            digest = evidence_digest(gate.evidence, gate.blockers)
            book.consume(gate.gate, chance.choice(("run1", "run2", "run3")), evidence_digest=digest)
        case _:
            shown, digest = choices(*(book.get(each.gate) for each in chance.sample(gates, 3)))
            book.decide(
                shown, "go", actor=who, reason="seen", shown=shown, list_digest=digest, via="test", atomic=False
            )


@pytest.mark.timeout(300)
def test_no_race_gets_past_the_policy(desk: Desk, control: str) -> None:
    gates = [
        desk.book.open(
            f"k{n}", replace(request(asker=f"d/r{n}/t/-1", policy=POLICY), evidence=EVIDENCES[0]), actor="task"
        )
        for n in range(40)
    ]
    trouble: list[BaseException] = []
    clients = [threading.Thread(target=act, args=(control, gates, seed, trouble)) for seed in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert trouble == []
    stories = [event for gate in gates for event in desk.book.history(gate.gate)]
    assert list(audit(stories)) == []
    used = [event.stream for event in stories if event.event_type == "gate_consumed"]
    assert len(used) == len(set(used)) > 5, "too few decisions were used to say anything"
    assert desk.owner.execute(
        "select count(*) from (select * from comporta.gate except select * from comporta.gate_as_of(9223372036854775807)) d"
    ).fetchone() == (0,)


def test_an_auditor_sees_a_decision_that_its_votes_do_not_make(desk: Desk) -> None:
    """Forged by the owner of the tables, past every function; the chain of the ledger holds all the same."""
    gate = desk.open(policy=POLICY, evidence=EVIDENCES[0])
    desk.owner.execute("set search_path = pg_catalog, pg_temp")
    desk.owner.execute(
        "select comporta.record(%s, 1, jsonb_build_array(jsonb_build_object('event_type', 'gate_decided', 'feature', 'catalogue',"
        " 'workflow', 'gate', 'phase', 'rollout', 'actor', 'ana', 'payload', jsonb_build_object('gate', %s::bigint,"
        " 'decision', 'go', 'by', '[]'::jsonb, 'evidence_digest', %s::text, 'valid_until', '2030-01-01T00:00:00+00:00'))))",
        [gate.stream, gate.gate, gate.evidence_digest],
    )
    (found,) = audit(desk.book.history(gate.gate))
    assert (found.gate, found.what) == (gate.gate, "the votes of nobody do not fill the roles")


@pytest.mark.parametrize(
    ("voters", "expected"),
    [
        (("ana", "bia", "caio"), True),
        (("bia", "caio"), False),
        (("ana", "caio", "davi"), False),
        (("ana", "bia"), False),
    ],
    ids=["all places", "one short", "an excluded one does not count", "nobody for the second place"],
)
def test_roles_are_filled_by_people_who_hold_them_and_may_decide(voters: tuple[str, ...], expected: bool) -> None:
    assert fills(POLICY, voters) is expected
