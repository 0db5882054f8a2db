"""The Gates page and its API, as the API server runs them, over gates kept in memory instead of the control database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from psycopg import OperationalError

from comporta.errors import UnreachableServer
from comporta.gates import (
    BatchResult,
    Choice,
    EvidenceItem,
    Gate,
    GateRefusal,
    Missing,
    Need,
    Policy,
    Refusal,
    RefusalCode,
    UnknownGate,
    Vote,
    list_digest,
)
from comporta.gates.evidence import Evidence
from comporta.gates.gate import evidence_digest
from comporta.ledger import Event
from comporta.orchestration.evidence_watch import EvidenceWatch

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
HERE = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}


def digest(text: str) -> str:
    """Any digest, the same for the same text."""
    return hashlib.sha256(text.encode()).hexdigest()


def a_gate(number: int, **different: Any) -> Gate:
    """An open gate that needs a CFO and a PO, asked by a run of ``rollout``."""
    items = (
        EvidenceItem("dry_run", "STAGE 2 report", digest("dry run"), "2026-11-24/stage2-1/report.html", "verdict pass"),
        EvidenceItem("target", "Fingerprint of the target", digest("target"), None, "214 objects"),
    )
    asked = {"dag_id": "rollout", "run_id": f"manual__{number}", "task_id": "gate", "map_index": -1}
    whole: dict[str, Any] = {
        "gate": number,
        "stream": f"gate/{number}",
        "name": "rollout",
        "kind": "decision",
        "question": f"May OPT{number % 5 + 1} go to production?",
        "feature": "catalogue-2029",
        "asker": f"rollout/manual__{number}/gate/-1",
        "asked_by": asked,
        "policy": Policy((Need("CFO"), Need("PO")), {"CFO": ("cfo",), "PO": ("po",)}, {"admin": "triggered the run"}),
        "opened_at": NOON - timedelta(minutes=5),
        "deadline": NOON + timedelta(hours=2, seconds=number),
        "remind_after_s": (3600, 5400),
        "reminded": 0,
        "evidence": items,
        "blockers": (),
        "revision": 1,
        "changes": (),
        "votes": (),
        "missing": (Missing("CFO", 1, ("cfo",)), Missing("PO", 1, ("po",))),
        "state": "open",
        "decision": None,
        "valid_until": None,
        "consumed_by": None,
        "consumed_at": None,
        "digest": digest(f"gate {number}"),
    }
    whole |= different
    return Gate(**whole, evidence_digest=evidence_digest(whole["evidence"], whole["blockers"]))


@dataclass
class FakeBook:
    """Gates in memory. The rules of the database, as far as the routes can tell them apart."""

    gates: dict[int, Gate]
    clock: Callable[[], datetime] = lambda: NOON
    calls: list[str] = field(default_factory=list)

    def list(
        self,
        *,
        states: Collection[str] | None = None,
        name: str | None = None,  # noqa: ARG002 - the book's signature
        asker_prefix: str | None = None,
        limit: int = 500,
    ) -> list[Gate]:
        """Newest first."""
        return [
            gate
            for _, gate in sorted(self.gates.items(), reverse=True)
            if (states is None or gate.state in states) and gate.asker.startswith(asker_prefix or "")
        ][:limit]

    def get(self, gate: int) -> Gate:
        """One gate."""
        if gate not in self.gates:
            raise UnknownGate(gate)
        return self.gates[gate]

    def history(self, gate: int) -> list[Event]:
        """One event is enough to see that it arrives."""
        found = self.get(gate)
        return [
            Event(
                id=found.gate,
                stream=found.stream,
                version=1,
                feature=found.feature,
                event_type="gate_opened",
                workflow="gate",
                phase=found.name,
                payload=MappingProxyType({"question": found.question}),
                actor="airflow",
                timestamp=found.opened_at,
                idempotency_key=None,
            )
        ]

    def decide(
        self,
        choices: Sequence[Choice],
        decision: Any,
        *,
        actor: str,
        reason: str,
        shown: Sequence[Choice],
        list_digest: str,
        via: str,
        atomic: bool,
    ) -> BatchResult:
        """Vote on each gate, or refuse it."""
        self.calls.append(f"{decision} on {[choice.gate for choice in choices]} by {actor} via {via}: {reason}")
        if list_digest != digest_of(shown):
            changed = Refusal(None, RefusalCode.LIST_CHANGED, "the list is not the one shown", "Draw it again.")
            return BatchResult("batch-1", (), (), changed)
        found = [(choice, self._refusal(choice, decision, actor, reason)) for choice in choices]
        refused = [refusal for _, refusal in found if refusal]
        able = [choice.gate for choice, refusal in found if refusal is None]
        if atomic and refused:
            why = "another gate of the list was refused"
            refused += [Refusal(gate, RefusalCode.ATOMIC, why, "Decide without it.") for gate in able]
            able = []
        for number in able:
            self.gates[number] = self._after(self.gates[number], Vote(actor, decision, reason, self._now(), via))
        return BatchResult("batch-1", tuple(self.gates[number] for number in able), tuple(refused))

    def revoke(self, gate: int, *, actor: str, reason: str, via: str) -> Gate:  # noqa: ARG002 - as above
        """Take a vote back."""
        found = self.get(gate)
        if found.consumed_by:
            raise GateRefusal(Refusal(gate, RefusalCode.CONSUMED, "the decision was acted on", "Stop it in its run."))
        if actor not in {vote.actor for vote in found.votes}:
            raise GateRefusal(Refusal(gate, RefusalCode.NO_VOTE, f"{actor} has no vote", "Only one's own."))
        votes = tuple(vote for vote in found.votes if vote.actor != actor)
        self.gates[gate] = counted(replace(found, votes=votes, state="open", decision=None))
        return self.gates[gate]

    def renew(self, gate: int, evidence: Sequence[EvidenceItem], blockers: Sequence[str], *, actor: str) -> Gate:
        """Void the votes and say what changed."""
        self.calls.append(f"renew {gate} by {actor}")
        found = self.gates[gate]
        before = {item.name: item.digest for item in found.evidence}
        changes = tuple(
            f"{item.name}: {before.get(item.name, 'none')[:6]}.. -> {item.digest[:6]}.."
            for item in evidence
            if before.get(item.name) != item.digest
        )
        self.gates[gate] = counted(
            replace(
                found,
                evidence=tuple(evidence),
                evidence_digest=evidence_digest(evidence, blockers),
                blockers=tuple(blockers),
                changes=changes,
                votes=(),
                revision=found.revision + 1,
                digest=digest(f"{gate} {changes}"),
            )
        )
        return self.gates[gate]

    def _now(self) -> str:
        return self.clock().isoformat()

    def _refusal(self, choice: Choice, decision: str, actor: str, reason: str) -> Refusal | None:
        gate = self.gates.get(choice.gate)
        if gate is None:
            return Refusal(choice.gate, RefusalCode.UNKNOWN_GATE, "there is no such gate", "List again.")
        who = RefusalCode.EXCLUDED if actor in gate.policy.excluded else RefusalCode.NO_ROLE
        changed = f"what was shown is not what the gate is about now: {'; '.join(gate.changes)}"
        rules = (
            (gate.state != "open", RefusalCode.CLOSED, "already decided", "Nothing is left to decide."),
            (gate.why_not(actor), who, gate.why_not(actor), "Somebody else who holds the role decides."),
            (choice.digest != gate.digest, RefusalCode.EVIDENCE_CHANGED, changed, "Look at it again, then decide."),
            (not reason, RefusalCode.REASON_MISSING, "a decision needs a reason", "Say why."),
            (decision == "go" and gate.blockers, RefusalCode.BLOCKED, "a blocker stands", "Remove it."),
        )
        return next((Refusal(gate.gate, code, why, remedy) for broken, code, why, remedy in rules if broken), None)

    def _after(self, gate: Gate, vote: Vote) -> Gate:
        gate = counted(replace(gate, votes=(*(v for v in gate.votes if v.actor != vote.actor), vote)))
        if vote.decision == "no_go" or not gate.missing:
            by = [v.actor for v in gate.votes if v.decision == vote.decision]
            answer = {"decision": vote.decision, "at": vote.at, "by": by, "reason": vote.reason}
            gate = replace(gate, state=vote.decision, decision=answer)
        return gate


def counted(gate: Gate) -> Gate:
    """The gate with roles given to votes, first come first served: the fakes' people hold one role each."""
    filled: dict[str, list[str]] = {need.role: [] for need in gate.policy.needs}
    votes = []
    for vote in gate.votes:
        free = [
            need.role
            for need in gate.policy.needs
            if vote.actor in gate.policy.holders[need.role] and len(filled[need.role]) < need.count
        ]
        role = free[0] if free and vote.decision == "go" else None
        if role:
            filled[role].append(vote.actor)
        votes.append(replace(vote, role=role))
    missing = tuple(
        Missing(need.role, need.count - len(filled[need.role]), gate.policy.holders[need.role])
        for need in gate.policy.needs
        if need.count > len(filled[need.role])
    )
    return replace(gate, votes=tuple(votes), missing=missing)


def digest_of(shown: Sequence[Choice]) -> str:
    """The digest over a list, under a name that parameters do not hide."""
    return list_digest(shown)


@dataclass(frozen=True)
class FakeUser:
    """Somebody whom Airflow has signed in."""

    name: str

    def get_name(self) -> str:
        """The login."""
        return self.name


@dataclass
class FakeAuthManager:
    """Permits all but the DAGs named."""

    unreadable: frozenset[str] = frozenset()
    unanswerable: frozenset[str] = frozenset()
    asked: set[tuple[str, str, str]] = field(default_factory=set)

    def is_authorized_dag(self, *, method: str, access_entity: Any, details: Any, user: FakeUser) -> bool:
        """As an auth manager answers."""
        self.asked.add((user.name, method, access_entity.value))
        return details.id not in self.unreadable | (self.unanswerable if method == "PUT" else frozenset())


@dataclass
class World:
    """The API over a fake book; a test changes what surrounds it."""

    book: FakeBook
    client: TestClient
    auth: FakeAuthManager
    evidence: dict[str, EvidenceItem]
    user: str = "cfo"
    blockers: tuple[str, ...] = ()
    unreachable: bool = False
    collected: int = 0

    def of(self, name: str, kind: str, asked_by: Any) -> Evidence:  # noqa: ARG002 - the collector's signature
        """The evidence as it is now, or what a server that is away causes."""
        self.collected += 1
        if self.unreachable:
            raise UnreachableServer("the target server does not answer at 127.0.0.1:5432", remedy="Start it.")
        return Evidence(tuple(self.evidence.values()), self.blockers)

    def listed(self, state: str = "open") -> dict[str, Any]:
        """The list as the page gets it."""
        answer = self.client.get(f"/api/gates?state={state}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def decide(self, seen: dict[str, Any], *gates: int, decision: str = "go", **different: Any) -> Any:
        """The page's request for the list ``seen``."""
        shown = [{"gate": gate["gate"], "digest": gate["digest"]} for gate in seen["gates"]]
        body = {"decision": decision, "reason": "read both", "gates": list(gates), "shown": shown}
        body |= {"list_digest": seen["list_digest"], "atomic": False} | different
        return self.client.post("/api/gates/decide", json=body, headers=HERE)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """The application as the plugin mounts it, in an Airflow home of its own."""
    home = tmp_path_factory.mktemp("airflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(home))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        from comporta.orchestration.web import app as whole

        yield whole


@pytest.fixture
def world(app: FastAPI) -> Iterator[World]:
    """Three open gates; whoever asks is signed in as ``world.user``."""
    from airflow.api_fastapi.core_api.security import get_user

    from comporta.orchestration import gates_web

    gates = [a_gate(number) for number in (1, 2, 3)]
    book = FakeBook({gate.gate: gate for gate in gates})
    world = World(book, TestClient(app), FakeAuthManager(), {item.name: item for item in gates[0].evidence})

    def open_book() -> AbstractContextManager[Any]:
        return nullcontext(book)

    watch = EvidenceWatch(lambda: world, keep_s=0, patience_s=5)
    roles = {"cfo": ["CFO"], "po": ["PO"]}
    desk = gates_web.Desk(open_book, watch, lambda login: roles.get(login, []))
    app.dependency_overrides = {
        gates_web.desk: lambda: desk,
        gates_web.now: book.clock,
        gates_web.auth_manager: lambda: world.auth,
        get_user: lambda: FakeUser(world.user),
    }
    yield world
    app.dependency_overrides = {}


PLACES = [
    ("GET", "/gates"),
    ("GET", "/static/gates.js"),
    ("GET", "/openapi.json"),
    ("GET", "/api/gates"),
    ("GET", "/api/gates/1"),
    ("POST", "/api/gates/decide"),
    ("POST", "/api/gates/1/revoke"),
    ("GET", "/reports/2026-11-24/stage2-1/report.html"),
]


@pytest.mark.parametrize(("method", "path"), PLACES, ids=[f"{method} {path}" for method, path in PLACES])
def test_nothing_is_served_to_somebody_who_is_not_signed_in(app: FastAPI, method: str, path: str) -> None:
    """A route without a dependency on the user would be public."""
    answer = TestClient(app).request(method, path, headers={"Content-Type": "application/json"}, content="{}")
    assert answer.status_code == 401
    assert answer.json()["code"] == "anonymous"


def test_every_route_is_among_those_that_are_tried_without_signing_in(app: FastAPI) -> None:
    """So that a route added later is tried, too."""
    known = {path.replace("/1", "/{gate}").replace("gates.js", "{name}") for _, path in PLACES}
    served = {path for route in app.routes if (path := getattr(route, "path", None))}
    assert {path for path in served if "reports" not in path} == {path for path in known if "reports" not in path}


def test_a_browser_that_is_not_signed_in_is_sent_to_the_sign_in_and_comes_back(app: FastAPI) -> None:
    """Airflow's sign-in takes the address to return to as ``next``."""
    answer = TestClient(app).get("/gates?dag_id=rollout", headers={"Accept": "text/html"}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/api/v2/auth/login?next=%2Fgates%3Fdag_id%3Drollout"


def test_the_page_loads_nothing_from_elsewhere(world: World) -> None:
    """The policy in its header would stop it; the page does not try."""
    answer = world.client.get("/gates")
    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "//" not in answer.text.replace("<!-- ", "")
    for name in ("gates.css", "gates.js"):
        assert f"static/{name}?v=" in answer.text
        assert world.client.get(f"/static/{name}").status_code == 200


def test_a_file_that_is_not_the_pages_own_is_not_served(world: World) -> None:
    """The route names its files; no path leads out of the folder."""
    assert world.client.get("/static/..%2Fweb.py").status_code == 404
    assert world.client.get("/static/gates.html.j2").json()["code"] == "unknown_file"


def test_the_list_carries_gates_by_deadline_with_what_i_may_do(world: World) -> None:
    """What the page draws, in the order in which it draws it."""
    world.book.gates[2] = replace(world.book.gates[2], deadline=NOON + timedelta(minutes=20))
    seen = world.listed()
    assert seen["me"] == {"login": "cfo", "roles": ["CFO"]}
    assert [gate["gate"] for gate in seen["gates"]] == [2, 1, 3]
    assert seen["list_digest"] == list_digest([Choice(gate["gate"], gate["digest"]) for gate in seen["gates"]])
    assert seen["gates"][0]["mine"]["may_go"]
    assert seen["gates"][0]["mine"]["why"] == "You may vote as CFO."


def test_an_unchanged_list_is_answered_with_304_and_a_vote_changes_it(world: World) -> None:
    """A vote does not change the digest of a gate, but the page must show it."""
    first = world.client.get("/api/gates")
    again = {"If-None-Match": first.headers["etag"]}
    assert world.client.get("/api/gates", headers=again).status_code == 304
    world.decide(first.json(), 1)
    assert world.client.get("/api/gates", headers=again).status_code == 200


def test_the_list_of_a_run_holds_that_runs_gates_only(world: World) -> None:
    """The tab on a run asks so."""
    found = world.client.get("/api/gates", params={"dag_id": "rollout", "run_id": "manual__2"}).json()
    assert [gate["gate"] for gate in found["gates"]] == [2]


def test_several_gates_are_decided_at_once_and_each_says_what_is_still_missing(world: World) -> None:
    """One vote of two does not open a gate."""
    answer = world.decide(world.listed(), 1, 3)
    assert answer.status_code == 200
    assert answer.json()["batch"] == "batch-1"
    assert [(gate["gate"], gate["state"], gate["missing"][0]["role"]) for gate in answer.json()["decided"]] == [
        (1, "open", "PO"),
        (3, "open", "PO"),
    ]
    assert world.book.calls == ["go on [1, 3] by cfo via page: read both"]


def test_the_last_vote_decides_and_the_gate_moves_to_the_decided_ones(world: World) -> None:
    """Both lists together hold every gate."""
    world.decide(world.listed(), 1)
    world.user = "po"
    answer = world.decide(world.listed(), 1)
    assert answer.json()["decided"][0]["state"] == "go"
    assert [gate["gate"] for gate in world.listed()["gates"]] == [2, 3]
    assert [gate["decision"]["by"] for gate in world.listed("decided")["gates"]] == [["cfo", "po"]]


def test_a_gate_that_changed_since_the_list_was_drawn_is_refused_and_the_others_go_on(world: World) -> None:
    """Approve what you saw."""
    seen = world.listed()
    world.book.gates[2] = replace(
        world.book.gates[2], digest=digest("asks something else"), changes=("target: a.. -> b..",)
    )
    answer = world.decide(seen, 1, 2, 3)
    assert [gate["gate"] for gate in answer.json()["decided"]] == [1, 3]
    refused = answer.json()["refused"]
    assert [(each["gate"], each["code"]) for each in refused] == [(2, "evidence_changed")]
    assert "target:" in refused[0]["why"]
    assert refused[0]["remedy"] == "Look at it again, then decide."


def test_all_or_none_records_nothing_when_one_is_refused(world: World) -> None:
    """409, and every gate of the list says why."""
    world.book.gates[2] = replace(world.book.gates[2], policy=Policy((Need("PO"),), {"PO": ("po",)}))
    answer = world.decide(world.listed(), 1, 2, atomic=True)
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert {each["gate"]: each["code"] for each in answer.json()["refused"]} == {2: "no_role", 1: "atomic"}
    assert not world.book.gates[1].votes


def test_a_list_that_was_not_shown_decides_nothing(world: World) -> None:
    """The digest is of exactly the list that the request carries."""
    answer = world.decide(world.listed(), 1, list_digest=digest("another list"))
    assert (answer.status_code, answer.json()["code"]) == (409, "list_changed")
    assert not world.book.gates[1].votes


def test_a_gate_outside_the_list_shown_decides_nothing(world: World) -> None:
    """A request cannot name a gate that its person did not see."""
    answer = world.decide(world.listed(), 1, 4711)
    assert (answer.status_code, answer.json()["code"]) == (409, "list_changed")
    assert "4711" in answer.json()["why"]
    assert world.book.calls == []


def test_who_holds_no_role_and_who_is_excluded_is_told_so_beforehand_and_refused(world: World) -> None:
    """The page says it; the book enforces it."""
    for user, code, words in (
        ("dba", "no_role", "You hold none of the roles"),
        ("admin", "excluded", "triggered the run"),
    ):
        world.user = user
        seen = world.listed()
        assert words in seen["gates"][0]["mine"]["why"]
        assert not seen["gates"][0]["mine"]["may"]
        assert world.decide(seen, 1).json()["refused"][0]["code"] == code


def test_a_no_go_is_possible_while_a_blocker_stands(world: World) -> None:
    """A blocker stops a Go, not an answer."""
    world.blockers = ("capacity plan: none",)
    seen = world.listed()
    assert seen["gates"][0]["blockers"] == ["capacity plan: none"]
    assert (seen["gates"][0]["mine"]["may"], seen["gates"][0]["mine"]["may_go"]) == (True, False)
    assert world.decide(seen, 1).json()["refused"][0]["code"] == "blocked"
    assert world.decide(seen, 1, decision="no_go").json()["decided"][0]["state"] == "no_go"


def test_an_empty_reason_is_refused(world: World) -> None:
    """Blanks are no reason."""
    assert world.decide(world.listed(), 1, reason="  ").json()["refused"][0]["code"] == "reason_missing"


def test_a_gate_of_a_dag_that_i_may_not_answer_is_refused_by_name_and_the_others_go_on(world: World) -> None:
    """Airflow's permissions hold for each gate, not for the page."""
    world.book.gates[2] = replace(world.book.gates[2], asked_by={**world.book.gates[2].asked_by, "dag_id": "secret"})
    world.auth.unanswerable = frozenset({"secret"})
    seen = world.listed()
    assert "does not permit you to answer" in {gate["gate"]: gate for gate in seen["gates"]}[2]["mine"]["why"]
    answer = world.decide(seen, 1, 2).json()
    assert [gate["gate"] for gate in answer["decided"]] == [1]
    assert [(each["gate"], each["code"]) for each in answer["refused"]] == [(2, "forbidden")]
    assert world.decide(seen, 3, 2, atomic=True).status_code == 409
    assert world.auth.asked == {("cfo", "GET", "HITL_DETAIL"), ("cfo", "PUT", "HITL_DETAIL")}


def test_a_gate_of_a_dag_that_i_may_not_see_is_not_listed_and_not_shown(world: World) -> None:
    """Its number alone says nothing, not even the name of the DAG."""
    world.book.gates[2] = replace(world.book.gates[2], asked_by={**world.book.gates[2].asked_by, "dag_id": "secret"})
    whole = world.listed()
    world.auth.unreadable = frozenset({"secret"})
    assert [gate["gate"] for gate in world.listed()["gates"]] == [1, 3]
    answer = world.client.get("/api/gates/2")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "secret" not in answer.text
    assert "secret" not in world.decide(whole, 2).text
    assert world.client.post("/api/gates/2/revoke", json={"reason": "x"}, headers=HERE).status_code == 403


def test_looking_renews_the_evidence_and_voids_votes_on_the_older(world: World) -> None:
    """Nobody approves what is not so any more."""
    world.decide(world.listed(), 1)
    world.evidence = {**world.evidence, "target": replace(world.evidence["target"], digest=digest("drift"))}
    first = world.listed()["gates"][0]
    assert (first["revision"], first["votes"]) == (2, [])
    assert first["changes"][0].startswith("target:")
    assert "renew 1 by comporta" in world.book.calls
    before = len(world.book.calls)
    assert world.client.get("/api/gates/1").json()["revision"] == 2
    assert len(world.book.calls) == before


def test_a_go_on_evidence_that_changes_meanwhile_is_refused_even_if_nobody_looked(world: World) -> None:
    """The evidence is collected once more when the vote arrives."""
    seen = world.listed()
    world.evidence = {**world.evidence, "target": replace(world.evidence["target"], digest=digest("drift"))}
    assert world.decide(seen, 1).json()["refused"][0]["code"] == "evidence_changed"


def test_no_go_on_a_server_that_does_not_answer_but_no_go_to_it_either(world: World) -> None:
    """No data is not good news: Go is refused for lack of it, No-Go is not."""
    world.unreachable = True
    seen = world.listed()
    assert "does not answer at 127.0.0.1:5432" in seen["gates"][0]["no_data"]
    assert (seen["gates"][0]["mine"]["may"], seen["gates"][0]["mine"]["may_go"]) == (True, False)
    refused = world.decide(seen, 1).json()["refused"][0]
    assert (refused["code"], refused["why"][:26]) == ("no_data", "no data on the evidence: t")
    assert world.decide(seen, 1, decision="no_go").json()["decided"][0]["state"] == "no_go"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain", **HERE}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded", **HERE}, 415),
        ({"Content-Type": "application/json"}, 403),
        ({"Content-Type": "application/json", "Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "application/json", "Origin": "http://testserver:8765", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "application/json", "Origin": "null"}, 403),
        ({"Content-Type": "application/json", **HERE}, 200),
        ({"Content-Type": "application/json", "Origin": "http://testserver"}, 200),
        ({"Content-Type": "application/json", "Authorization": "Bearer a-token"}, 200),
    ],
    ids=["text", "form", "no origin", "other site", "other port", "opaque", "the page", "older browser", "a program"],
)
def test_another_web_page_cannot_decide_with_my_cookie(world: World, headers: dict[str, str], status: int) -> None:
    """A browser sends the cookie to us whoever asks; it also says who asks."""
    seen = world.listed()
    body = {"decision": "go", "reason": "x", "gates": [1], "list_digest": seen["list_digest"]}
    shown = [{"gate": gate["gate"], "digest": gate["digest"]} for gate in seen["gates"]]
    for path, content in (("decide", {**body, "shown": shown}), ("1/revoke", {"reason": "x"})):
        answer = world.client.post(f"/api/gates/{path}", content=json.dumps(content), headers=headers)
        assert answer.status_code == status, answer.text
    assert bool(world.book.calls) is (status == 200)


def test_my_own_vote_can_be_revoked_until_somebody_acted_on_it(world: World) -> None:
    """The button is there exactly as long as the book would allow it."""
    world.decide(world.listed(), 1)
    assert world.listed()["gates"][0]["mine"]["may_revoke"]
    answer = world.client.post("/api/gates/1/revoke", json={"reason": "second thoughts"}, headers=HERE)
    assert (answer.status_code, answer.json()["votes"]) == (200, [])
    again = world.client.post("/api/gates/1/revoke", json={"reason": "second thoughts"}, headers=HERE)
    assert (again.status_code, again.json()["code"]) == (409, "no_vote")
    assert again.json()["remedy"]


def test_one_gate_is_shown_with_its_events(world: World) -> None:
    """What an auditor asks first."""
    (event,) = world.client.get("/api/gates/1").json()["history"]
    assert (event["id"], event["event_type"], event["actor"]) == (1, "gate_opened", "airflow")
    assert event["payload"] == {"question": "May OPT2 go to production?"}
    missing = world.client.get("/api/gates/99")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_gate")


def test_a_database_that_breaks_off_leaves_it_open_whether_the_vote_was_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer must not say that nothing was recorded."""

    def break_off(*_: Any, **__: Any) -> BatchResult:
        raise OperationalError("server closed the connection unexpectedly")

    seen = world.listed()
    monkeypatch.setattr(world.book, "decide", break_off)
    answer = world.decide(seen, 1)
    assert (answer.status_code, answer.json()["code"]) == (503, "broken_off")
    assert "shows whether it was recorded" in answer.json()["remedy"]


def test_a_request_that_is_not_as_described_is_named(world: World) -> None:
    """The first field that is wrong, not a page of them."""
    answer = world.decide(world.listed(), 1, decision="perhaps")
    assert (answer.status_code, answer.json()["code"]) == (422, "malformed")
    assert answer.json()["why"].startswith("body.decision")


def test_the_decided_list_holds_the_last_fifty(world: World) -> None:
    """Newest first."""
    answer = {"decision": "no_go", "by": ["cfo"], "reason": "no"}
    for number in range(100, 160):
        at = (NOON + timedelta(minutes=number)).isoformat()
        world.book.gates[number] = a_gate(number, state="no_go", decision={**answer, "at": at})
    found = world.listed("decided")["gates"]
    assert (len(found), found[0]["gate"]) == (50, 159)


def test_the_api_describes_itself(world: World) -> None:
    """Every operation has a summary and says what it answers."""
    document = world.client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/api/gates",
        "/api/gates/{gate}",
        "/api/gates/decide",
        "/api/gates/{gate}/revoke",
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["responses"]["200"]["content"]["application/json"]["schema"]
