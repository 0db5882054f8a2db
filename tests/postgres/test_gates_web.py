"""The gates API over a real control database: what the page sends is decided by the database's own functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.postgres.gate_desk import FOUR, ONE, PROOFS, SCRIPTS, Desk, open_desk

from comporta.gates import EvidenceItem, GateBook
from comporta.gates.evidence import Evidence
from comporta.orchestration.evidence_watch import EvidenceWatch

HERE = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class User:
    """Somebody whom Airflow has signed in."""

    name: str

    def get_name(self) -> str:
        """The login."""
        return self.name


class PermitsAll:
    """An auth manager that permits everything: what is refused here is refused by the ledger."""

    def is_authorized_dag(self, **_: Any) -> bool:
        """Always."""
        return True


@dataclass
class Site:
    """The API, the desk behind it, and evidence that a test changes."""

    client: TestClient
    desk: Desk
    user: str = "po"
    items: tuple[EvidenceItem, ...] = (SCRIPTS, PROOFS)
    blockers: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, name: str, kind: Any, asked_by: Mapping[str, Any]) -> Evidence:  # noqa: ARG002 - the collector's signature
        """As it is now."""
        return Evidence(self.items, self.blockers.get(name, ()))

    def listed(self, state: str = "open") -> dict[str, Any]:
        """The list as the page gets it."""
        answer = self.client.get("/api/gates", params={"state": state})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def decide(self, seen: dict[str, Any], *gates: int, decision: str = "go", atomic: bool = False) -> dict[str, Any]:
        """The page's request for the list ``seen``."""
        body = {
            "decision": decision,
            "reason": "looked at it",
            "gates": list(gates),
            "shown": [{"gate": each["gate"], "digest": each["digest"]} for each in seen["gates"]],
            "list_digest": seen["list_digest"],
            "atomic": atomic,
        }
        answer = self.client.post("/api/gates/decide", json=body, headers=HERE)
        return {"status": answer.status_code, **answer.json()}


@pytest.fixture
def site(control: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The application as the plugin mounts it, on a control database whose clock stands still."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
    from airflow.api_fastapi.core_api.security import get_user

    from comporta.orchestration import gates_web
    from comporta.orchestration.web import app

    with open_desk(control) as desk:
        site = Site(TestClient(app), desk)
        watch = EvidenceWatch(lambda: site, keep_s=0)
        behind = gates_web.Desk(lambda: GateBook(control), watch, lambda _login: [])
        app.dependency_overrides = {
            gates_web.desk: lambda: behind,
            gates_web.now: lambda: datetime(2026, 11, 24, 10, 0, tzinfo=UTC),
            gates_web.auth_manager: PermitsAll,
            get_user: lambda: User(site.user),
        }
        yield site
        app.dependency_overrides = {}


def test_the_page_and_the_ledger_agree_on_gate_list_vote_and_history(site: Site) -> None:
    """One vote of four is recorded and shown with the place that it fills; the next one finds it there."""
    gate = site.desk.open(policy=FOUR)
    seen = site.listed()
    assert [each["gate"] for each in seen["gates"]] == [gate.gate]
    assert seen["gates"][0]["mine"]["why"] == "You may vote as PO."
    outcome = site.decide(seen, gate.gate)
    (voted,) = outcome["decided"]
    assert [(vote["actor"], vote["role"], vote["via"]) for vote in voted["votes"]] == [("po", "PO", "page")]
    assert [each["role"] for each in voted["missing"]] == ["CFO", "Compliance", "Security"]
    history = site.client.get(f"/api/gates/{gate.gate}").json()["history"]
    assert [event["event_type"] for event in history] == ["gate_opened", "gate_vote_cast"]
    assert history[1]["payload"]["batch"] == outcome["batch"]


def test_of_several_gates_the_one_that_changed_since_is_refused(site: Site) -> None:
    """Four in one click, one refused: its record says why, and the page shows it as it is now."""
    gates = [site.desk.open(f"k{n}", asker=f"rollout/run{n}/gate/-1", name=f"g{n}", policy=ONE) for n in range(5)]
    seen = site.listed()
    site.blockers = {"g3": ("drills_passed: no drill was run",)}
    outcome = site.decide(seen, *(gate.gate for gate in gates))
    assert [each["state"] for each in outcome["decided"]] == ["go"] * 4
    assert [(each["gate"], each["code"]) for each in outcome["refused"]] == [(gates[3].gate, "evidence_changed")]
    (left,) = site.listed()["gates"]
    assert left["blockers"] == ["drills_passed: no drill was run"]
    assert left["changes"] == ["new blocker: drills_passed: no drill was run"]
    assert site.desk.event_types(gates[3]) == ["gate_opened", "gate_evidence_changed", "gate_vote_refused"]


def test_all_or_none_records_no_vote_when_one_gate_is_refused(site: Site) -> None:
    """The answer is 409 and names every gate of the list."""
    one = site.desk.open("k1", asker="rollout/run1/gate/-1")
    other = site.desk.open("k2", asker="rollout/run2/gate/-1", policy=FOUR)
    site.user = "deputy"
    outcome = site.decide(site.listed(), one.gate, other.gate, atomic=True)
    assert outcome["status"] == 409
    assert {each["gate"]: each["code"] for each in outcome["refused"]} == {one.gate: "atomic", other.gate: "no_role"}
    assert site.desk.book.get(one.gate).votes == ()


def test_a_list_with_another_digest_is_refused_by_the_database(site: Site) -> None:
    """The route passes the list on as it came; the database computes the digest."""
    gate = site.desk.open()
    outcome = site.decide(site.listed() | {"list_digest": "0" * 64}, gate.gate)
    assert (outcome["status"], outcome["code"]) == (409, "list_changed")


def test_a_vote_is_taken_back_until_the_decision_was_used(site: Site) -> None:
    """Afterwards the page says so in the ledger's words."""
    gate = site.desk.open()
    site.decide(site.listed(), gate.gate)
    path = f"/api/gates/{gate.gate}/revoke"
    assert site.client.post(path, json={"reason": "too early"}, headers=HERE).json()["state"] == "open"
    site.decide(site.listed(), gate.gate)
    assert site.desk.use(gate) == "go"
    late = site.client.post(path, json={"reason": "too late"}, headers=HERE)
    assert (late.status_code, late.json()["code"]) == (409, "consumed")
    (decided,) = site.listed("decided")["gates"]
    assert (decided["consumed_by"], decided["mine"]["may_revoke"]) == ("rollout/run1/gate/-1/0", False)


def test_a_control_database_that_does_not_answer_is_said_in_one_sentence(site: Site) -> None:
    """503, and no stack trace."""
    from comporta.orchestration import gates_web

    behind = site.client.app.dependency_overrides[gates_web.desk]()  # type: ignore[attr-defined]
    gone = gates_web.Desk(
        lambda: GateBook("host=127.0.0.1 port=1 dbname=comporta user=nobody connect_timeout=2"),
        behind.watch,
        behind.roles_of,
    )
    site.client.app.dependency_overrides[gates_web.desk] = lambda: gone  # type: ignore[attr-defined]
    answer = site.client.get("/api/gates")
    assert (answer.status_code, answer.json()["code"]) == (503, "unreachable")
    assert "127.0.0.1" in answer.json()["why"]
