"""``comporta gates`` on a real control database: the same policy, in words, with an exit status for machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.postgres.gate_desk import Desk, open_desk
from typer.testing import CliRunner

from comporta.gates import EvidenceItem, Policy
from comporta.gates.commands import app
from comporta.gates.evidence import Collector, Evidence

Run = Callable[..., Result]
SCRIPTS = (EvidenceItem("scripts", "Scripts", "a" * 64),)


@pytest.fixture
def desk(control: str) -> Iterator[Desk]:
    with open_desk(control) as made:
        yield made


@pytest.fixture
def run(control: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line as a user of this machine; the evidence is what each gate was opened with."""
    monkeypatch.setenv("COMPORTA_HOME", str(project))
    monkeypatch.setenv("COMPORTA_CONTROL_DSN", control)
    monkeypatch.setattr(Collector, "of", lambda *_: Evidence(SCRIPTS))

    def as_user(user: str, *arguments: str) -> Result:
        monkeypatch.setattr("getpass.getuser", lambda: user)
        return CliRunner().invoke(app, arguments, catch_exceptions=False)

    return as_user


def open_gates(desk: Desk, count: int = 1, policy: Policy | None = None) -> list[int]:
    more: dict[str, Any] = {"policy": policy} if policy else {}
    return [desk.open(f"k{n}", asker=f"d/r{n}/t/-1", evidence=SCRIPTS, **more).gate for n in range(count)]


def test_what_waits_is_listed_with_what_is_missing(desk: Desk, run: Run) -> None:
    open_gates(desk)
    told = run("po", "list").stdout
    assert "May the release go to" in told
    assert "1 × PO" in told
    (listed,) = json.loads(run("po", "list", "--json").stdout)
    assert (listed["state"], listed["missing"]) == ("open", [{"role": "PO", "count": 1, "holders": ["po", "deputy"]}])


def test_everything_that_one_may_decide_is_approved_at_once(desk: Desk, run: Run) -> None:
    gates = open_gates(desk, 3)
    done = run("po", "approve", "--all", "--reason", "read it")
    assert done.exit_code == 0
    assert {desk.book.get(gate).state for gate in gates} == {"go"}


def test_a_refusal_is_told_with_the_way_out_and_exit_status_1(desk: Desk, run: Run) -> None:
    (gate,) = open_gates(desk)
    done = run("cfo", "approve", str(gate), "--reason", "read it")
    assert done.exit_code == 1
    assert "cfo holds none of the roles" in " ".join(done.stdout.split())
    assert run("po", "approve", str(gate)).exit_code == 1, "a decision needs a reason"


def test_a_no_go_and_a_revocation(desk: Desk, run: Run) -> None:
    (gate,) = open_gates(desk)
    assert run("po", "reject", str(gate), "--reason", "not yet").exit_code == 0
    assert desk.book.get(gate).state == "no_go"
    assert run("deputy", "revoke", str(gate), "--reason", "mine").exit_code == 1
    assert run("po", "revoke", str(gate), "--reason", "after all").exit_code == 0
    assert desk.book.get(gate).state == "open"


def test_a_gate_is_shown_with_its_story(desk: Desk, run: Run) -> None:
    (gate,) = open_gates(desk)
    run("cfo", "approve", str(gate), "--reason", "read it")
    told = run("po", "show", str(gate)).stdout
    for part in ("May the release go to production?", "gate_opened", "gate_vote_refused", "missing   1 × PO"):
        assert part in told
    assert [each["type"] for each in json.loads(run("po", "show", str(gate), "--json").stdout)["history"]] == [
        "gate_opened",
        "gate_vote_refused",
    ]


def test_an_audit_of_honest_gates_finds_nothing_and_of_a_forged_one_names_it(desk: Desk, run: Run) -> None:
    (gate,) = open_gates(desk)
    run("po", "approve", str(gate), "--reason", "read it")
    assert run("po", "audit").exit_code == 0
    desk.owner.execute("set search_path = pg_catalog, pg_temp")
    desk.owner.execute(
        "select comporta.record(%s, 3, jsonb_build_array(jsonb_build_object('event_type', 'gate_consumed', 'feature', 'f',"
        " 'workflow', 'gate', 'phase', 'rollout', 'actor', 'x', 'payload', jsonb_build_object('gate', %s::bigint,"
        " 'answer', 'go', 'at', '2099-01-01T00:00:00+00:00', 'evidence_digest', 'other'))))",
        [desk.book.get(gate).stream, gate],
    )
    done = run("po", "audit")
    assert done.exit_code == 1
    assert "a Go that had lapsed was used" in done.stdout
    assert "used on other evidence" in done.stdout


def test_numbers_and_all_together_are_refused(desk: Desk, run: Run) -> None:
    from comporta.errors import ConfigurationError

    (gate,) = open_gates(desk)
    with pytest.raises(ConfigurationError, match="found both"):
        run("po", "approve", str(gate), "--all", "--reason", "x")
