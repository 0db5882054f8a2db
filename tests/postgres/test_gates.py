"""Gates: the policy is enforced where the vote is recorded, whoever asks and through whatever door."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from tests.postgres.gate_desk import FOUR, ONE, PROOFS, SCRIPTS, Desk, choices, open_desk, request

from comporta.gates import (
    EvidenceItem,
    GateBook,
    GateImpossible,
    GateRefusal,
    Need,
    Policy,
    RefusalCode,
    UnknownGate,
)
from comporta.gates.gate import evidence_digest
from comporta.ledger import Ledger, LedgerError, NewEvent

CHANGED = EvidenceItem("scripts", "Scripts of the release", "c" * 64)


@pytest.fixture
def desk(control: str) -> Iterator[Desk]:
    with open_desk(control) as made:
        yield made


def refusal(desk: Desk, *args: object, **more: object) -> RefusalCode:
    with pytest.raises(GateRefusal) as caught:
        desk.vote(*args, **more)  # type: ignore[arg-type]
    return caught.value.refusal.code


def test_a_gate_opens_with_its_evidence_and_tells_what_is_missing(desk: Desk) -> None:
    gate = desk.open(policy=FOUR)
    assert gate.state == "open"
    assert [(each.role, each.count, each.holders) for each in gate.missing] == [
        ("CFO", 1, ("cfo",)),
        ("PO", 1, ("po",)),
        ("Compliance", 1, ("compliance",)),
        ("Security", 1, ("security",)),
    ]
    assert gate.evidence == (SCRIPTS, PROOFS)
    assert (gate.deadline - gate.opened_at).total_seconds() == 7200


def test_python_and_database_agree_on_the_digest_of_evidence(desk: Desk) -> None:
    items = (EvidenceItem("é", "x", "1"), EvidenceItem("z", "x", "2"), EvidenceItem("a", "x", "3"))
    gate = desk.open(evidence=items, blockers=("übel", "also bad"))
    assert gate.evidence_digest == evidence_digest(items, ("also bad", "übel"))


def test_opening_again_with_the_same_key_is_the_same_gate(desk: Desk) -> None:
    assert desk.open().gate == desk.open().gate


def test_asking_again_withdraws_the_gate_of_the_same_asker(desk: Desk) -> None:
    first = desk.open("run1/0")
    desk.vote(first, "po")
    second = desk.open("run1/1")
    assert desk.book.get(first.gate).state == "withdrawn"
    assert (second.state, second.votes) == ("open", ())
    assert desk.use(first) == "withdrawn"


def test_four_sign_offs_by_four_people_make_a_go(desk: Desk) -> None:
    gate = desk.open(policy=FOUR)
    for login in ("security", "po", "cfo"):
        assert desk.vote(gate, login).state == "open"
    decided = desk.vote(gate, "compliance")
    assert decided.state == "go"
    assert decided.decision is not None
    assert decided.decision["by"] == ["cfo", "po", "compliance", "security"]
    assert {vote.actor: vote.role for vote in decided.votes}["security"] == "Security"
    assert desk.use(decided) == "go"


def test_one_no_go_of_anybody_who_decides_is_a_no_go(desk: Desk) -> None:
    gate = desk.open(policy=FOUR)
    desk.vote(gate, "po")
    assert desk.vote(gate, "cfo", "no_go", "not before the audit").state == "no_go"
    assert desk.use(gate) == "no_go"
    assert refusal(desk, gate, "security") == RefusalCode.CLOSED


def test_votes_are_matched_to_roles_so_that_no_order_of_voting_leaves_a_role_empty(desk: Desk) -> None:
    """Taken first come, first served, the one who holds both roles would sit in the place of the other."""
    policy = Policy((Need("A"), Need("B")), {"A": ("both", "a"), "B": ("both",)})
    gate = desk.open(policy=policy)
    desk.vote(gate, "both")
    assert desk.vote(gate, "a").state == "go"


def test_one_person_fills_one_place_whatever_roles_they_hold(desk: Desk) -> None:
    policy = Policy((Need("A"), Need("B")), {"A": ("both", "a"), "B": ("both", "b")})
    gate = desk.open(policy=policy)
    desk.vote(gate, "both")
    assert desk.vote(gate, "both").state == "open"


@pytest.mark.parametrize(
    ("actor", "decision", "reason", "code"),
    [
        ("dba", "go", "mine", RefusalCode.EXCLUDED),
        ("dba", "no_go", "mine", RefusalCode.EXCLUDED),
        ("stranger", "go", "why not", RefusalCode.NO_ROLE),
        ("po", "go", "  ", RefusalCode.REASON_MISSING),
        ("po", "no_go", "", RefusalCode.REASON_MISSING),
    ],
    ids=["author", "author says no", "no role", "no reason", "no reason for a no"],
)
def test_the_policy_refuses_and_records_the_attempt(
    desk: Desk, actor: str, decision: str, reason: str, code: RefusalCode
) -> None:
    policy = replace(ONE, holders={"PO": ("po", "dba")}, excluded={"dba": "author of the release"})
    gate = desk.open(policy=policy)
    assert refusal(desk, gate, actor, decision, reason) == code
    assert desk.event_types(gate) == ["gate_opened", "gate_vote_refused"]
    assert desk.book.get(gate.gate).votes == ()


def test_a_vote_on_what_was_shown_before_the_evidence_changed_is_refused(desk: Desk) -> None:
    seen = desk.open()
    desk.book.renew(seen.gate, (CHANGED, PROOFS), (), actor="comporta")
    assert refusal(desk, seen, "po") == RefusalCode.EVIDENCE_CHANGED
    now = desk.book.get(seen.gate)
    assert (now.revision, now.changes) == (2, ("scripts: aaaaaa.. -> cccccc..",))
    assert desk.vote(now, "po").state == "go"


def test_a_change_of_evidence_voids_votes_and_an_unused_decision(desk: Desk) -> None:
    gate = desk.open(policy=FOUR)
    desk.vote(gate, "cfo")
    after = desk.book.renew(gate.gate, (CHANGED, PROOFS), (), actor="comporta")
    assert (after.state, after.votes) == ("open", ())
    single = desk.vote(desk.open("other", asker="a/b/c/0"), "po")
    assert single.state == "go"
    assert desk.book.renew(single.gate, (CHANGED, PROOFS), (), actor="comporta").state == "open"
    assert desk.use(single) == "waiting"


def test_renewing_with_the_same_evidence_worded_anew_changes_nothing(desk: Desk) -> None:
    gate = desk.open()
    same = desk.book.renew(gate.gate, (PROOFS, replace(SCRIPTS, title="another title")), (), actor="comporta")
    assert same.revision == 1
    assert desk.event_types(gate) == ["gate_opened"]


def test_a_decision_is_not_used_when_the_evidence_is_another_at_that_moment(desk: Desk) -> None:
    gate = desk.vote(desk.open(), "po")
    assert desk.use(gate, digest="0" * 64) == "evidence_changed"
    assert desk.book.get(gate.gate).consumed_by is None


def test_a_go_is_refused_while_a_blocker_stands_and_a_no_go_is_not(desk: Desk) -> None:
    gate = desk.open(blockers=("rollbacks_proved: 3 proofs are stale",))
    assert refusal(desk, gate, "po") == RefusalCode.BLOCKED
    free = desk.book.renew(gate.gate, gate.evidence, (), actor="comporta")
    assert free.changes == ("blocker gone: rollbacks_proved: 3 proofs are stale",)
    assert desk.vote(free, "po").state == "go"


def test_a_decision_is_used_once_and_a_repetition_by_the_same_user_gives_the_same(desk: Desk) -> None:
    gate = desk.vote(desk.open(), "po")
    assert [desk.use(gate, "first"), desk.use(gate, "first"), desk.use(gate, "second")] == [
        "go",
        "go",
        "consumed_elsewhere",
    ]
    assert desk.event_types(gate).count("gate_consumed") == 1


def test_looking_uses_nothing_up(desk: Desk) -> None:
    gate = desk.vote(desk.open(), "po")
    assert desk.use(gate, None) == "go"
    assert desk.use(gate, "stage4") == "go"
    assert desk.use(gate, None) == "go", "who asked still hears the answer that another has used"


def test_silence_closes_and_reminders_come_before(desk: Desk) -> None:
    gate = desk.open()
    assert desk.book.sweep() == []
    for minutes, expected in ((60, 1), (29, 1), (1, 2)):
        desk.pass_time(minutes * 60)
        desk.book.sweep()
        assert desk.book.get(gate.gate).reminded == expected
    desk.pass_time(29 * 60 + 59)
    assert desk.book.sweep() == []
    desk.pass_time(1)
    assert desk.book.sweep() == [gate.gate]
    assert desk.book.get(gate.gate).state == "expired"
    assert desk.use(gate) == "expired"
    assert desk.event_types(gate) == ["gate_opened", "gate_reminded", "gate_reminded", "gate_expired", "gate_consumed"]
    assert desk.book.history(gate.gate)[3].payload["silent"] == ["deputy", "po"]


def test_a_vote_after_the_deadline_is_refused_even_before_anybody_swept(desk: Desk) -> None:
    gate = desk.open()
    desk.pass_time(7200)
    assert refusal(desk, gate, "po") == RefusalCode.EXPIRED
    assert desk.use(gate) == "expired"


def test_a_go_lapses_when_nobody_used_it_in_time(desk: Desk) -> None:
    gate = desk.vote(desk.open(), "po")
    desk.pass_time(86400)
    assert desk.use(gate) == "expired"
    assert desk.use(gate, "another") == "consumed_elsewhere"


def test_a_vote_can_be_revoked_until_the_decision_is_used(desk: Desk) -> None:
    gate = desk.vote(desk.open(), "po")
    assert desk.book.revoke(gate.gate, actor="po", reason="too early", via="test").state == "open"
    again = desk.vote(gate, "po")
    desk.use(again)
    with pytest.raises(GateRefusal) as caught:
        desk.book.revoke(gate.gate, actor="po", reason="too late", via="test")
    assert caught.value.refusal.code == RefusalCode.CONSUMED


def test_revoking_one_of_two_spare_votes_leaves_the_decision_standing(desk: Desk) -> None:
    policy = Policy((Need("A"), Need("B")), {"A": ("a", "both"), "B": ("b", "both")})
    gate = desk.open(policy=policy)
    desk.vote(gate, "a")
    desk.vote(gate, "b")
    with pytest.raises(GateRefusal) as caught:
        desk.book.revoke(gate.gate, actor="both", reason="x", via="test")
    assert caught.value.refusal.code == RefusalCode.NO_VOTE
    assert desk.book.revoke(gate.gate, actor="a", reason="x", via="test").state == "open"


def test_a_gate_that_nobody_could_open_is_refused_at_once(desk: Desk) -> None:
    with pytest.raises(GateImpossible, match="of 1 places to fill"):
        desk.open(policy=replace(ONE, excluded={"po": "author", "deputy": "started the run"}))
    assert desk.book.list() == []


def test_several_gates_are_decided_at_once_and_each_has_its_own_record(desk: Desk) -> None:
    gates = [desk.open(f"k{n}", asker=f"d/r{n}/t/-1") for n in range(5)]
    shown, digest = choices(*gates)
    desk.book.renew(gates[2].gate, (CHANGED,), (), actor="comporta")
    result = desk.book.decide(
        shown, "go", actor="po", reason="all read", shown=shown, list_digest=digest, via="page", atomic=False
    )
    assert [gate.gate for gate in result.decided] == [gates[n].gate for n in (0, 1, 3, 4)]
    assert {gate.state for gate in result.decided} == {"go"}
    assert [(each.gate, each.code) for each in result.refused] == [(gates[2].gate, RefusalCode.EVIDENCE_CHANGED)]
    votes = [
        event
        for gate in result.decided
        for event in desk.book.history(gate.gate)
        if event.event_type == "gate_vote_cast"
    ]
    assert {(vote.payload["batch"], vote.payload["shown"]) for vote in votes} == {(result.batch, 5)}


def test_all_or_none_casts_nothing_when_one_is_refused(desk: Desk) -> None:
    gates = [desk.open(f"k{n}", asker=f"d/r{n}/t/-1") for n in range(3)]
    shown, digest = choices(*gates)
    desk.book.renew(gates[0].gate, (CHANGED,), (), actor="comporta")
    result = desk.book.decide(
        shown, "go", actor="po", reason="all read", shown=shown, list_digest=digest, via="page", atomic=True
    )
    assert result.decided == ()
    assert sorted(each.code for each in result.refused) == ["atomic", "atomic", "evidence_changed"]
    assert all(not desk.book.get(gate.gate).votes for gate in gates)


def test_a_list_that_is_not_the_one_shown_decides_nothing(desk: Desk) -> None:
    one, other = (desk.open(f"k{n}", asker=f"d/r{n}/t/-1") for n in range(2))
    shown, digest = choices(one)
    chosen, _ = choices(other)
    for picked, of in ((chosen, digest), (shown, "0" * 64)):
        result = desk.book.decide(
            picked, "go", actor="po", reason="r", shown=shown, list_digest=of, via="page", atomic=False
        )
        assert result.list_refused is not None
        assert result.list_refused.code == RefusalCode.LIST_CHANGED
    assert desk.event_types(one) == ["gate_opened"]


def test_nobody_writes_to_a_gate_past_its_functions(desk: Desk, control: str) -> None:
    gate = desk.open()
    forged = NewEvent(event_type="gate_decided", feature="catalogue", actor="po", workflow="gate", phase="rollout")
    with Ledger(control) as ledger, pytest.raises(LedgerError, match="gate/"):
        ledger.append(gate.stream, [forged])
    with Ledger(control) as ledger:
        ledger.append("elsewhere", [forged])
        for statement in (
            "update comporta.gate set state = 'go'",
            "insert into comporta.gate select * from comporta.gate",
            "select comporta.gate_record('gate/k', 1, '[]')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                ledger.connection.execute(statement.encode())
    assert [each.state for each in desk.book.list()] == ["open"]


def test_the_live_table_is_what_the_events_say(desk: Desk) -> None:
    gate = desk.open(policy=FOUR)
    desk.vote(gate, "cfo")
    desk.book.revoke(gate.gate, actor="cfo", reason="x", via="test")
    desk.use(desk.vote(desk.open("other", asker="a/b/c/0"), "po"))
    differing = desk.owner.execute(
        "(select * from comporta.gate except select * from comporta.gate_as_of(9223372036854775807))"
        " union all (select * from comporta.gate_as_of(9223372036854775807) except select * from comporta.gate)"
    ).fetchall()
    assert differing == []


def test_an_unknown_gate_is_named(desk: Desk) -> None:
    with pytest.raises(UnknownGate, match="there is no gate 4711"):
        desk.book.get(4711)


def test_a_connection_that_was_handed_in_stays_open(desk: Desk) -> None:
    with GateBook(desk.owner) as book:
        assert book.list() == []
    assert not desk.owner.closed
    assert request().name == "rollout"
