"""The release's checklist: no data is no good news, and the words of a blocker change only when the facts do."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from comporta.gates import EvidenceItem
from comporta.gates.policy import GatesFile, load_policy
from comporta.ledger import Event
from comporta.notices.outbox import LastMail
from comporta.settings import project_root
from comporta.sync.checklist import (
    CHECKS,
    DryRun,
    LastDrillOf,
    capacity_planned,
    dependencies_closed,
    drills_passed,
    dry_run_passed,
    everyone_reachable,
    rollbacks_proved,
    timeline_holds,
)
from comporta.sync.model import Answer, Blocker, Finding, Item, blockers
from comporta.validation.validity import ProofStatus

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
DAY = timedelta(days=1)
SCRIPTS = {"OPT1": {"apply": "a1", "verify": "v1"}, "OPT2": {"apply": "a2", "verify": "v2"}}
SOME = EvidenceItem("x", "X", "0" * 64)


def proof(state: Any, subject: str = "OPT1") -> ProofStatus:
    return ProofStatus(subject, "restore", state, recorded_at=NOW - DAY, report="2026-11-23/stage3-x/r.html")


def run(verdict: str | None = "pass", scripts: dict[str, dict[str, str]] | None = None, name: str = "run1") -> DryRun:
    return DryRun(name, SCRIPTS if scripts is None else scripts, verdict, NOW - DAY, "2026-11-23/r.html", "d" * 64)


def last_mail(state: str, said: str = "") -> LastMail:
    return LastMail(recipient="po", state=state, tries=1, said=said, at=NOW)


def item(finding: Finding, *, required: bool = True, at: datetime = NOW) -> Item:
    return Item.of("x", title="X", owner="DBA", required=required, finding=finding, at=at)


def capacity(**payload: Any) -> Event:
    planned = {name: digests["apply"] for name, digests in SCRIPTS.items()}
    return Event(
        id=1, stream="capacity/x", version=1, feature="r", event_type="capacity_planned", workflow=None, phase=None,
        payload={"scripts": planned, **payload}, actor="a", timestamp=NOW, idempotency_key=None,
    )  # fmt: skip


CASES: dict[str, tuple[Finding, str, str]] = {
    "all proofs valid": (rollbacks_proved([proof("valid"), proof("valid", "OPT2")]), "ok", "all 2 proofs are valid"),
    "a stale proof": (
        rollbacks_proved([proof("valid"), proof("stale", "OPT2")]),
        "blocker",
        "1 of 2 proofs are not valid: OPT2 · restore stale",
    ),
    "no proof owed": (rollbacks_proved([]), "blocker", "owes no proof"),
    "a dry run of these scripts": (dry_run_passed([run()], SCRIPTS), "ok", "verdict pass for 2 changes"),
    "a dry run with a warning": (dry_run_passed([run("warn")], SCRIPTS), "ok", "verdict warn"),
    "a dry run that stopped": (dry_run_passed([run("stop")], SCRIPTS), "blocker", "ended with a stop"),
    "a dry run of other scripts": (
        dry_run_passed([run(scripts={**SCRIPTS, "OPT2": {"apply": "old", "verify": "v2"}})], SCRIPTS),
        "blocker",
        "scripts changed since the dry run run1 of 2026-11-23 10:00 UTC: OPT2",
    ),
    "a dry run of a part": (dry_run_passed([run(scripts={"OPT1": SCRIPTS["OPT1"]})], SCRIPTS), "no_data", "whole"),
    "a dry run of a part after one of all": (
        dry_run_passed([run(scripts={"OPT1": SCRIPTS["OPT1"]}, name="part"), run()], SCRIPTS),
        "ok",
        "run1",
    ),
    "a dry run under way": (dry_run_passed([run(None)], SCRIPTS), "no_data", "no finished dry run"),
    "no dry run": (dry_run_passed([], SCRIPTS), "no_data", "no finished dry run"),
    "no capacity plan": (capacity_planned(None, SCRIPTS), "blocker", "no capacity plan is recorded"),
    "a capacity plan": (
        capacity_planned(capacity(digest="d" * 64, verdict="warn"), SCRIPTS),
        "ok",
        "verdict warn, planned on 2026-11-24",
    ),
    "a capacity plan of other scripts": (
        capacity_planned(capacity(digest="d", verdict="pass", scripts={"OPT1": "a1", "OPT2": "old"}), SCRIPTS),
        "blocker",
        "scripts changed since the capacity plan of 2026-11-24 10:00 UTC: OPT2",
    ),
    "a capacity plan without a verdict": (capacity_planned(capacity(digest="d"), SCRIPTS), "blocker", "has no verdict"),
    "a capacity plan without evidence": (capacity_planned(capacity(), SCRIPTS), "blocker", "has no digest"),
    "a capacity plan that says stop": (
        capacity_planned(
            capacity(
                digest="d",
                verdict="stop",
                answers=[{"question": "p95", "verdict": "not_met"}, {"question": "disk_full", "verdict": "met"}],
            ),
            SCRIPTS,
        ),
        "blocker",
        "says stop: not met today: p95",
    ),
    "drills met": (
        drills_passed([LastDrillOf("target", NOW - DAY, "met"), LastDrillOf("shadow", NOW - 2 * DAY, "met")], NOW),
        "ok",
        "2 of 2",
    ),
    "a drill missed": (
        drills_passed([LastDrillOf("target", NOW - DAY, "missed", "back after 99 s")], NOW),
        "blocker",
        "target missed: back after 99 s",
    ),
    "a drill too old": (
        drills_passed([LastDrillOf("target", NOW - 7 * DAY, "met")], NOW),
        "blocker",
        "last run more than 7 days ago: target on 2026-11-17",
    ),
    "a drill never run": (
        drills_passed([LastDrillOf("target", NOW - DAY, "met"), LastDrillOf("alert-server")], NOW),
        "no_data",
        "never run: alert-server",
    ),
    "everyone reachable": (
        everyone_reachable({"po": "po@localhost", "cfo": "cfo@localhost"}, {"po": last_mail("sent")}),
        "ok",
        "2 people have an address",
    ),
    "nobody written to yet": (everyone_reachable({"po": "po@localhost"}, {}), "ok", "1 people"),
    "a mail that failed": (
        everyone_reachable({"po": "po@localhost"}, {"po": last_mail("failed", "550 unknown")}),
        "blocker",
        "the last mail failed: po (comporta mail list --failed)",
    ),
    "no address": (everyone_reachable({"po": None}, {}), "blocker", "no address: po"),
    "nothing open": (dependencies_closed(SCRIPTS, "", (), ()), "ok", "2 changes in order"),
    "a requirement missing": (
        dependencies_closed({}, "OPT2 requires OPT9, which is not in the release", (), ()),
        "blocker",
        "OPT9",
    ),
    "a run unfinished": (dependencies_closed(SCRIPTS, "", ("dry_run/x",), ()), "blocker", "not finished: dry_run/x"),
    "a blocker carried over": (
        dependencies_closed(SCRIPTS, "", (), (Blocker("owner/PO", "PO", "no window agreed", ""),)),
        "blocker",
        "open since the last sync: PO: no window agreed",
    ),
    "no date": (timeline_holds(None, {"dry run": DAY}, NOW), "no_data", "gives no date"),
    "never measured": (timeline_holds(date(2026, 12, 1), {"dry run": None}, NOW), "no_data", "never measured: dry run"),
    "time enough": (
        timeline_holds(date(2026, 12, 1), {"dry run": DAY / 24, "sync": DAY / 12}, NOW),
        "ok",
        "dry run 1 h + sync 2 h: to begin by 2026-11-30 21:00 UTC",
    ),
    "too late": (timeline_holds(date(2026, 11, 25), {"dry run": DAY}, NOW), "blocker", "had to begin by"),
}


@pytest.mark.parametrize(("finding", "state", "said"), CASES.values(), ids=list(CASES))
def test_what_is_found(finding: Finding, state: str, said: str) -> None:
    assert finding.state == state
    assert said in finding.detail


@pytest.mark.parametrize("finding", [case[0] for case in CASES.values() if case[1] == "ok"])
def test_good_news_has_evidence_with_a_digest(finding: Finding) -> None:
    assert finding.evidence is not None
    assert finding.evidence.digest
    assert item(finding).state == "ok"


def test_good_news_without_evidence_is_a_blocker() -> None:
    found = item(Finding("ok", "somebody said so"))
    assert (found.state, found.blocks) == ("blocker", True)
    assert found.detail == "somebody said so; there is no evidence of it"


def test_good_news_that_has_expired_is_a_blocker() -> None:
    found = item(Finding("ok", "drilled", SOME, expires=NOW))
    assert (found.state, found.detail) == ("blocker", "drilled; that expired at 2026-11-24 10:00 UTC")


@pytest.mark.parametrize(("required", "blocks"), [(True, True), (False, False)])
def test_missing_data_block_where_the_item_is_required(required: bool, blocks: bool) -> None:
    assert item(Finding("no_data", "nothing known"), required=required).blocks is blocks


def test_a_blocker_is_one_whether_required_or_not() -> None:
    assert item(Finding("blocker", "broken"), required=False).blocks


def test_the_words_of_a_drill_too_old_are_the_same_a_day_later() -> None:
    """Votes are bound to them: an age in days would void every vote each day."""
    drills = [LastDrillOf("target", NOW - 8 * DAY, "met")]
    assert drills_passed(drills, NOW).detail == drills_passed(drills, NOW + DAY).detail


def test_the_words_of_a_mail_server_are_no_part_of_a_blocker() -> None:
    """It would name its queue number: another blocker at each mail, which voids votes, which is told by mail."""
    first, second = (everyone_reachable({"po": "x@y"}, {"po": last_mail("failed", f"550 id {n}")}) for n in (1, 2))
    assert first == second


def test_the_digest_of_a_finding_changes_with_what_it_was_computed_from() -> None:
    one, two = rollbacks_proved([proof("valid")]), rollbacks_proved([proof("stale")])
    assert one.evidence is not None
    assert two.evidence is not None
    assert one.evidence.digest != two.evidence.digest


def test_every_item_of_the_gates_file_has_a_check() -> None:
    file: GatesFile = load_policy(project_root() / "config" / "gates.yaml")
    assert set(file.readiness.checklist) <= set(CHECKS)


def test_blockers_are_owners_who_are_not_ready_and_items_that_block() -> None:
    answers = [Answer("DBA", "ready"), Answer("PO", "blocker", "no window"), Answer("Security", "silent")]
    items = [item(Finding("blocker", "broken")), item(Finding("ok", "fine", SOME))]
    assert [(each.key, each.owner, each.what) for each in blockers(answers, items, (), NOW)] == [
        ("owner/PO", "PO", "no window"),
        ("owner/Security", "Security", "no answer is on record"),
        ("item/x", "DBA", "x: broken"),
    ]


def test_a_blocker_ages_from_the_first_sync_in_a_row_that_named_it() -> None:
    answers = [Answer("PO", "blocker", "no window")]
    first = blockers(answers, (), (), NOW)
    second = blockers(answers, (), first, NOW + DAY)
    third = blockers([Answer("PO", "blocker", "still none")], (), second, NOW + 2 * DAY)
    assert (third[0].since, third[0].syncs, third[0].what) == (NOW.isoformat(), 3, "still none")
    assert third[0].age_s(NOW + 2 * DAY) == 2 * 86_400
    gone = blockers([Answer("PO", "ready")], (), third, NOW + 3 * DAY)
    assert gone == ()
    assert blockers(answers, (), gone, NOW + 4 * DAY)[0].syncs == 1


def test_an_answer_that_is_neither_ready_nor_a_blocker_is_silence() -> None:
    for raw in ({"role": "PO"}, {"role": "PO", "status": None}, {"role": "PO", "status": "perhaps"}):
        assert Answer.parse(raw).status == "silent"
