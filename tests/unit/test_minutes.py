"""Agenda and minutes: folded from whatever the ledger has so far, and the same for the same facts."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comporta.capacity.execution_plan import execution_plan
from comporta.gates import EvidenceItem, Gate, Need, Policy
from comporta.gates.gate import Missing, State, Vote
from comporta.gates.policy import GatesFile, load_policy
from comporta.ledger import Event
from comporta.release.model import load_release
from comporta.reports.folder import RunFolder
from comporta.settings import project_root
from comporta.sync import minutes, page
from comporta.sync.model import Answer, Blocker
from comporta.sync.record import Sync, folded

AT = datetime(2026, 11, 24, 10, tzinfo=UTC)
FILE: GatesFile = load_policy(project_root() / "config" / "gates.yaml")


def event(number: int, event_type: str, payload: dict[str, Any]) -> Event:
    return Event(
        id=number, stream="daily_sync/run1", version=number, feature="catalogue", event_type=event_type,
        workflow="daily_sync", phase=None, payload=payload, actor="a", timestamp=AT, idempotency_key=None,
    )  # fmt: skip


ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "owner": st.sampled_from(["DBA", "PO", "Security"]),
        "role": st.sampled_from(["DBA", "PO"]),
        "status": st.sampled_from(["ready", "blocker", "silent", None, "later"]),
        "reason": st.one_of(st.none(), st.text(max_size=20)),
        "by": st.one_of(st.none(), st.text(max_size=5), st.lists(st.text(max_size=5), max_size=2)),
        "gate": st.one_of(st.none(), st.integers(1, 9)),
        "answered_at": st.one_of(st.none(), st.just(AT.isoformat()), st.text(max_size=5)),
    },
)
BLOCKERS = st.fixed_dictionaries(
    {},
    optional={
        "key": st.text(max_size=8),
        "owner": st.text(max_size=8),
        "what": st.text(max_size=20),
        "since": st.one_of(st.none(), st.just(AT.isoformat()), st.text(max_size=5)),
        "syncs": st.one_of(st.none(), st.integers(1, 50)),
    },
)
PAYLOADS = st.fixed_dictionaries(
    {},
    optional={
        "at": st.one_of(st.none(), st.just(AT.isoformat())),
        "owners": st.one_of(st.none(), st.lists(st.text(max_size=8), max_size=3)),
        "answers": st.one_of(st.none(), st.lists(ANSWERS, max_size=4)),
        "blockers": st.one_of(st.none(), st.lists(BLOCKERS, max_size=4)),
        "items": st.one_of(st.none(), st.just([])),
        "report": st.one_of(st.none(), st.just("x/minutes.html")),
        "minutes": st.one_of(st.none(), st.fixed_dictionaries({}, optional={"decisions": st.just([])})),
    },
)
TYPES = st.sampled_from(["sync_opened", "blockers_checked", "minutes_written", "gate_opened", "of_a_later_version"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # whatever else the machine is doing
@given(st.lists(st.tuples(TYPES, PAYLOADS), max_size=8))
def test_folding_any_prefix_never_fails_and_can_be_put_into_minutes(story: list[tuple[str, dict[str, Any]]]) -> None:
    events = [event(number, *each) for number, each in enumerate(story, start=1)]
    for length in range(len(events) + 1):
        sync = folded("run1", events[:length])
        data = minutes.compose("minutes", sync, (), FILE, title="T", date="2026-11-24")
        assert json.dumps(minutes.for_mail(data))
        assert data["verdict"] in ("pass", "warn", "stop")


def test_what_was_checked_again_replaces_what_was_checked_before() -> None:
    story = [
        event(1, "sync_opened", {"at": AT.isoformat(), "owners": ["PO"]}),
        event(
            2,
            "blockers_checked",
            {"answers": [{"owner": "PO", "status": "blocker"}], "blockers": [{"key": "owner/PO"}]},
        ),
        event(3, "blockers_checked", {"answers": [{"owner": "PO", "status": "ready"}], "blockers": []}),
    ]
    sync = folded("run1", story)
    assert [each.status for each in sync.answers] == ["ready"]
    assert sync.blockers == ()
    assert sync.asked == ("PO",)
    assert not sync.finished


def gate(number: int, name: str = "rollout", state: State = "open", **more: Any) -> Gate:
    made = Gate(
        gate=number, stream=f"gate/{number}", name=name, kind="decision", question="May it go?", feature="catalogue",
        asker=f"daily_sync/run1/{name}/-1", asked_by={}, policy=Policy((Need("PO"),), {"PO": ("po",)}),
        opened_at=AT, deadline=AT + timedelta(hours=6), remind_after_s=(3600,), reminded=0,
        evidence=(EvidenceItem("scripts", "Scripts", "a" * 64, "2026-11-24/x/report.html", "15 scripts"),),
        evidence_digest="b" * 64, blockers=(), revision=1, changes=(), votes=(), missing=(Missing("PO", 1, ("po",)),),
        state=state, decision=None, valid_until=None, consumed_by=None, consumed_at=None, digest="c" * 64,
    )  # fmt: skip
    return replace(made, **more)


def readiness_gate(number: int, role: str, **more: Any) -> Gate:
    return gate(
        number, "readiness", kind="readiness", asker=f"daily_sync/run1/collect_readiness/{number}",
        policy=Policy((Need(role),), {role: (role.lower(),)}), deadline=AT + timedelta(hours=2), **more,
    )  # fmt: skip


SYNC = Sync(
    "run1",
    feature="catalogue",
    opened_at=AT.isoformat(),
    checked_at=(AT + timedelta(hours=2)).isoformat(),
    answers=(
        Answer("DBA", "ready", "all proved", ("dba",), 1, (AT + timedelta(minutes=25)).isoformat()),
        Answer("PO", "silent", "no answer within 120 min", (), 2),
    ),
    blockers=(
        Blocker("owner/PO", "PO", "no answer within 120 min", (AT + timedelta(hours=2)).isoformat()),
        Blocker(
            "item/capacity_planned",
            "PO",
            "capacity_planned: none",
            (AT - timedelta(days=2)).isoformat(),
            3,
        ),
    ),
)
DECIDED = gate(
    9,
    state="no_go",
    decision={"decision": "no_go", "by": ["cfo"], "reason": "too early", "at": AT.isoformat()},
    votes=(Vote("cfo", "no_go", "too early", AT.isoformat(), "page"),),
)


def composed(kind: minutes.Kind = "minutes", gates: tuple[Gate, ...] = (DECIDED,)) -> dict[str, Any]:
    asked = (readiness_gate(1, "DBA", state="go"), readiness_gate(2, "PO", state="expired", reminded=2))
    return minutes.compose(kind, SYNC, (*asked, *gates), FILE, title="Catalogue ready", date="2026-11-24")


def test_minutes_say_who_was_ready_after_how_long_and_who_was_silent() -> None:
    rows = {each["owner"]: each for each in composed()["readiness"]}
    assert (rows["DBA"]["word"], rows["DBA"]["after_min"]) == ("Ready", 25.0)
    assert (rows["PO"]["word"], rows["PO"]["after_min"], rows["PO"]["reminded"]) == ("Blocker (silent)", None, 2)


def test_minutes_say_what_is_in_the_way_whose_it_is_and_how_old() -> None:
    found = {each["key"]: each for each in composed()["blockers"]}
    assert found["owner/PO"]["age"] == "new"
    assert found["item/capacity_planned"]["age"] == "for 2 days, 3 syncs"
    assert found["item/capacity_planned"]["age_s"] == 2 * 86_400 + 7200


def test_minutes_say_what_was_decided_by_whom_and_why_and_what_was_not_put() -> None:
    stage4, rollout = composed()["decisions"]
    assert (rollout["name"], rollout["word"], rollout["by"], rollout["reason"]) == (
        "rollout",
        "No-Go",
        ["cfo"],
        "too early",
    )
    assert (stage4["name"], stage4["word"]) == ("stage4", "not put")


def test_minutes_say_what_is_to_be_done_next() -> None:
    assert [(each["who"], each["what"]) for each in composed()["actions"]] == [
        ("PO", "say Ready or Blocker; clearing the question in collect_readiness puts it again"),
        ("PO", "resolve: capacity_planned: none"),
        ("operator", "stage4 was not put: see why its task did not run"),
        ("operator", "correct what cfo said of rollout, then clear its gate"),
    ]


def test_minutes_begin_with_one_sentence() -> None:
    assert composed()["sentence"] == (
        "1 of 2 owners are ready, 1 silent; 2 blockers, the oldest for 2 days; stage4: not put, rollout: No-Go."
    )
    assert composed("agenda", ())["sentence"].endswith("to be decided: stage4, rollout.")


@pytest.mark.parametrize(
    ("blockers", "state", "verdict"),
    [
        (True, "go", "stop"),
        (False, "go", "pass"),
        (False, "no_go", "stop"),
        (False, "open", "warn"),
        (False, "expired", "warn"),
    ],
)
def test_the_verdict_is_a_pass_only_when_nothing_is_in_the_way_and_all_was_decided_for(
    blockers: bool, state: State, verdict: str
) -> None:
    sync = SYNC if blockers else replace(SYNC, blockers=())
    gates = [gate(number, name, state) for number, name in enumerate(FILE.daily_sync.gates, start=10)]
    assert minutes.compose("minutes", sync, gates, FILE, title="T", date="d")["verdict"] == verdict


PLAN = execution_plan(load_release(project_root() / "config" / "release.yaml", project_root() / "sql"))


@pytest.mark.parametrize(
    ("state", "attached"),
    [(None, True), ("open", True), ("expired", True), ("go", False), ("no_go", False)],
    ids=["not put", "open", "expired", "go", "no-go"],
)
def test_the_execution_plan_of_stage_4_is_attached_until_its_gate_is_decided(
    state: State | None, attached: bool
) -> None:
    gates = [gate(9, "stage4", state)] if state else []
    data = minutes.compose("minutes", SYNC, gates, FILE, title="T", date="d", plan=PLAN)
    assert bool(data["execution_plan"]) is attached
    assert bool(minutes.for_mail(data)["execution_plan"]) is attached


def test_the_page_of_a_sync_shows_the_stop_rules_of_stage_4(tmp_path: Path) -> None:
    data = minutes.compose("agenda", SYNC, (), FILE, title="T", date="d", plan=PLAN)
    written = page.write(RunFolder.make(tmp_path, "daily_sync", "run1", AT), data, AT)
    shown = written.html.read_text(encoding="utf-8")
    assert '<h2 id="stage4">STAGE 4, execution plan</h2>' in shown
    assert "no higher rung of a state and size once p95 is above 5000 ms" in shown


def test_of_a_gate_that_asked_again_only_the_newest_is_told() -> None:
    withdrawn = gate(8, state="withdrawn")
    again = gate(12, state="go", valid_until=AT + timedelta(days=1))
    rollout = composed(gates=(withdrawn, again))["decisions"][1]
    assert (rollout["gate"], rollout["word"]) == (12, "Go")


def test_the_same_facts_give_the_same_minutes(tmp_path: Path) -> None:
    """Their digest is the key under which they are sent: a task that runs again sends nothing again."""
    folder = RunFolder.make(tmp_path, "daily_sync", "run1", AT)
    first = page.write(folder, composed(), AT)
    second = page.write(folder, composed(), AT + timedelta(hours=1))
    assert first.digest == second.digest


def test_the_page_holds_all_of_it_and_escapes_what_people_wrote(tmp_path: Path) -> None:
    data = composed(gates=(replace(DECIDED, question="May <b>it</b> go?"),))
    written = page.write(RunFolder.make(tmp_path, "daily_sync", "run1", AT), data, AT)
    html = written.html.read_text(encoding="utf-8")
    assert written.html.name == "minutes.html"
    assert "May &lt;b&gt;it&lt;/b&gt; go?" in html
    assert 'href="../../2026-11-24/x/report.html"' in html
    for text in ("silence is a Blocker", "Blocker (silent)", "too early", "for 2 days, 3 syncs"):
        assert text in html
    assert json.loads(written.json.read_text())["verdict"] == "stop"


def test_a_page_of_a_sync_that_hardly_began_can_be_written(tmp_path: Path) -> None:
    data = minutes.compose("minutes", Sync("run1"), (), FILE, title="T", date="2026-11-24")
    html = page.write(RunFolder.make(tmp_path, "daily_sync", "run1", AT), data, AT).html.read_text()
    assert "Nobody was asked." in html
