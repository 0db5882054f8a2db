"""The rollout report passes only when everything that was asked for is as it must be, and shows what is not known as not known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs
from tests.unit.rollout_history import (
    CHANGES,
    RELEASE,
    RUN,
    START,
    TITLES,
    History,
    Look,
    cleared_later,
    drifted,
    fingerprint,
    green,
    killed,
    looks,
    verify_failed,
)

from comporta.ledger import EventType
from comporta.reports.page import digest_of
from comporta.rollout.report import write_rollout_report
from comporta.rollout.report_plots import bouts
from comporta.rollout.report_samples import canaries, seen, stretches

HOSTILE = "</script><script>alert('são')</script><img src=x onerror=alert(1)>{{ 7*7 }}"


class Written:
    """A report that was written: its verdict and reasons, the page without plotly's own code, and the data beside it."""

    def __init__(self, folder: Path, told: History, health: Iterable[Look] = (), **changes: Any) -> None:
        values: dict[str, Any] = {
            "events": told.events,
            "health": health,
            "release_name": RELEASE,
            "title": "Catalogue ready for 2029",
            "run": RUN,
            "started": START,
            "now": told.now,
            "target": "me@db:5432/gis",
            "changes": CHANGES,
            **changes,
        }
        report, self.verdict, self.reasons = write_rollout_report(folder, **values)
        self.page = report.html.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
        self.data = json.loads(report.json.read_text(encoding="utf-8"))

    def change(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.data["changes"] if each["name"] == name)
        return found

    @property
    def states(self) -> dict[str, str]:
        return {each["name"]: each["state"] for each in self.data["changes"]}


# -- what stands, and the verdict --------------------------------------------------------------------------------------


def test_a_green_rollout_of_five_passes(tmp_path: Path) -> None:
    written = Written(tmp_path, green(), looks(green()))
    assert written.verdict == written.data["verdict"] == "pass"
    assert written.reasons == []
    assert written.data["sentence"] == "5 of 5 changes in place."
    assert set(written.states.values()) == {"in place"}
    assert "Nothing was rolled back." in written.page


def test_a_verify_that_fails_three_times_stops_and_shows_its_errors_and_the_rollback(tmp_path: Path) -> None:
    written = Written(tmp_path, verify_failed())
    assert written.verdict == "stop"
    assert written.states == {
        "OPT1": "in place",
        "OPT2": "in place",
        "OPT3": "rolled back",
        "OPT4": "not applied",
        "OPT5": "not applied",
    }
    assert written.reasons == ["OPT3 was rolled back by itself: verify failed 3 times.", "OPT4, OPT5 were not applied."]
    assert [(each["step"], each["attempt"]) for each in written.data["failures"]] == [
        ("verify", "1 of 3"),
        ("verify", "2 of 3"),
        ("verify", "3 of 3"),
    ]
    assert written.page.count("returns 11 rows, expected 12") >= 3
    (rollback,) = written.data["rollbacks"]
    assert (rollback["restored"], rollback["proof"], rollback["who"]) == (True, "OPT3 · restore", "by itself")


def test_a_change_that_a_person_cleared_days_later_is_no_stop_and_names_the_person_and_the_note(tmp_path: Path) -> None:
    written = Written(tmp_path, cleared_later())
    assert written.verdict == "pass"
    assert written.states["OPT1"] == written.states["OPT2"] == written.states["OPT4"] == "rolled back"
    assert written.states["OPT3"] == written.states["OPT5"] == "in place"
    assert [(each["change"], each["who"], each["note"]) for each in written.data["rollbacks"]] == [
        ("OPT4", "cleared by dba, with OPT1", "the map is slower since"),
        ("OPT2", "cleared by dba, with OPT1", "the map is slower since"),
        ("OPT1", "cleared by dba", "the map is slower since"),
    ]
    last = written.data["acts"][-1]
    assert (last["who"], last["what"], last["why"]) == ("dba", "cleared OPT1.rollback", "the map is slower since")


def test_a_rollback_that_was_cleared_is_told_by_its_own_event_where_no_clear_is_on_record(tmp_path: Path) -> None:
    told = green()
    told.back("OPT5", note="the views are stale")
    last = Written(tmp_path, told).data["acts"][-1]
    assert (last["who"], last["what"], last["why"]) == ("dba", "cleared the rollback of OPT5", "the views are stale")


def test_a_rollback_that_was_asked_for_names_who_asked(tmp_path: Path) -> None:
    told = green()
    told.back("OPT5", why="asked", because="po: no need", by=None, actor="cli:po")
    written = Written(tmp_path, told)
    assert written.data["rollbacks"][0]["who"] == "asked for by cli:po"
    assert written.data["acts"][-1]["what"] == "asked for the rollback of OPT5"


@pytest.mark.parametrize(
    ("restored", "against"),
    [
        (False, "OPT1 was rolled back, and the catalogue is not as it must be: 1 difference."),
        (None, "OPT1 was rolled back, and nothing says whether the catalogue is as it was."),
    ],
    ids=["differs", "not compared"],
)
def test_a_catalogue_that_is_not_known_to_be_as_it_must_be_is_a_stop_whoever_asked(
    tmp_path: Path, restored: bool | None, against: str
) -> None:
    told = green()
    told.back("OPT1", restored=restored, differences=["grant to reader: expected present, found absent"])
    written = Written(tmp_path, told)
    assert (written.verdict, written.reasons) == ("stop", [against])
    assert "grant to reader: expected present, found absent" in written.page
    assert ("differs" if restored is False else "not compared") in written.page


def test_what_went_first_and_could_not_be_compared_is_vouched_for_by_the_comparison_after_all_have_gone(
    tmp_path: Path,
) -> None:
    told = green()
    told.back("OPT2", root="OPT1", note="slow", restored=None)
    told.back("OPT1", note="slow")
    written = Written(tmp_path, told)
    assert (written.verdict, written.reasons) == ("pass", [])
    assert "not compared" in written.page


def test_a_rollback_of_several_is_one_act_at_its_beginning(tmp_path: Path) -> None:
    told = green()
    began = told.now
    for name in ("OPT4", "OPT2", "OPT1"):
        told.back(name, root="OPT1", why="asked", because="po: slow", by=None, actor="cli:po")
    acts = [each for each in Written(tmp_path, told).data["acts"] if "rollback" in each["what"]]
    assert [(each["what"], each["at"][:19]) for each in acts] == [
        ("asked for the rollback of OPT1", began.isoformat()[:19])
    ]


def test_a_change_that_is_applied_again_after_its_rollback_is_judged_by_how_it_stands(tmp_path: Path) -> None:
    told = verify_failed()
    for name in ("OPT3", "OPT4", "OPT5"):
        told.change(name)
    written = Written(tmp_path, told)
    assert written.verdict == "pass"
    assert len(written.data["rollbacks"]) == 1
    assert len(written.data["failures"]) == 3


def test_an_apply_that_was_killed_leaves_a_half(tmp_path: Path) -> None:
    written = Written(tmp_path, killed())
    assert written.states["OPT2"] == "half"
    assert written.reasons == [
        "OPT2 is half applied: its apply began 2026-11-24 10:00:18 UTC and did not say that it ended.",
        "OPT3, OPT4, OPT5 were not applied.",
    ]
    assert written.data["spans"][-1]["outcome"] == "open"


def test_an_apply_that_was_killed_and_taken_up_again_shows_both_attempts(tmp_path: Path) -> None:
    told = killed()
    for name in ("OPT2", "OPT3", "OPT4", "OPT5"):
        told.change(name, resumed=name == "OPT2")
    written = Written(tmp_path, told)
    assert written.verdict == "pass"
    assert [each["outcome"] for each in written.data["spans"] if each["change"] == "OPT2"][:2] == ["broken off", "done"]
    assert written.change("OPT2")["attempts"]["apply"] == 2
    assert "begun 2 times" in written.page


@pytest.mark.parametrize("step", ["apply", "rollback"])
def test_a_script_that_failed_leaves_a_half_with_its_error(tmp_path: Path, step: str) -> None:
    told = History()
    told.preflight(names=["OPT1"])
    told.apply("OPT1", begun_only=step == "apply")
    if step == "rollback":
        told.rollout("rollback_started", "OPT1", why="asked", because="po: slow", root="OPT1", cleared_by=None)
    event_type = "rollout_apply_failed" if step == "apply" else "rollback_failed"
    told.rollout(event_type, "OPT1", error="lock timeout", sqlstate="55P03", statement=4, transient=True, seconds=2.0)
    written = Written(tmp_path, told)
    assert written.states["OPT1"] == "half"
    assert written.reasons == [f"OPT1 is half applied: its {step} failed, lock timeout."]
    (failure,) = written.data["failures"]
    assert (failure["sqlstate"], failure["statement"], failure["transient"]) == ("55P03", "4", True)


def test_a_rollback_that_failed_and_was_tried_again_is_judged_by_its_end(tmp_path: Path) -> None:
    told = green()
    told.rollout("rollback_started", "OPT5", why="cleared", because="x", root="OPT5", cleared_by="dba", note="slow")
    told.rollout(
        "rollback_failed", "OPT5", error="lock timeout", sqlstate="55P03", statement=1, transient=True, root="OPT5"
    )
    told.back("OPT5", note="slow")
    written = Written(tmp_path, told)
    assert written.verdict == "pass"
    assert [each["outcome"] for each in written.data["rollbacks"]] == ["failed", "done"]


def test_drift_that_nothing_explains_is_a_stop_and_drift_that_is_explained_is_shown(tmp_path: Path) -> None:
    written = Written(tmp_path, drifted())
    assert written.verdict == "stop"
    assert written.reasons == [
        "The preflight stopped it: catalogue.geometrias: 1 difference from the proven one.",
        "The target drifted, and nothing explains it: "
        "index geometrias_name on catalogue.geometrias: expected present, found absent.",
        "OPT1 was refused before its first statement: the target is not the one of the proofs.",
        "OPT2, OPT4, OPT5 were not applied.",
    ]
    assert written.states["OPT3"] == "rolled back"
    assert "its rollback script left its mark at 10:55" in written.page
    assert "nothing explains it" in written.page


def test_drift_before_a_preflight_that_passed_is_over(tmp_path: Path) -> None:
    told = drifted()
    told.preflight()
    for name in TITLES:
        told.change(name)
    assert Written(tmp_path, told).verdict == "pass"


def test_drift_that_the_caller_finds_now_is_a_stop(tmp_path: Path) -> None:
    written = Written(tmp_path, green(), drift=["index x: expected present, found absent"])
    assert written.verdict == "stop"
    assert written.reasons == ["The target drifted, and nothing explains it: index x: expected present, found absent."]


def test_drift_that_the_caller_does_not_find_any_more_is_over(tmp_path: Path) -> None:
    told = green()
    told.rollout("rollout_drifted", "drift", differences=["x"], fingerprint=fingerprint("e"))
    assert Written(tmp_path, told).verdict == "stop"
    assert Written(tmp_path, told, drift=[]).verdict == "pass"


def test_only_what_was_asked_for_counts(tmp_path: Path) -> None:
    told = History()
    told.preflight(names=["OPT3"])
    told.change("OPT3")
    written = Written(tmp_path, told)
    assert written.verdict == "pass"
    assert written.data["sentence"] == "1 of 1 changes in place."
    assert "not part of this run" in written.page


def test_a_rollback_run_of_its_own_is_about_what_it_touched(tmp_path: Path) -> None:
    told = green()
    told.pass_time(86_400)
    told.run, started = "rollback/manual__later", told.now
    told.back("OPT5", why="asked", because="po: no need", by=None)
    written = Written(tmp_path, told, run=told.run, started=started)
    assert (written.verdict, written.data["sentence"]) == (
        "pass",
        "0 of 1 changes in place; OPT5 rolled back; after 1 of 1 compared rollbacks the catalogue is as it must be.",
    )
    assert written.states["OPT1"] == "in place"
    assert {each["step"] for each in written.data["spans"]} == {"rollback"}


def test_a_change_that_was_there_already_stays_as_it_was_verified(tmp_path: Path) -> None:
    told = green()
    told.pass_time(3600)
    told.run, started = "rollout/second", told.now
    told.preflight()
    for name in TITLES:
        told.rollout("rollout_apply_finished", name, already=True, fingerprint=fingerprint("c"))
    written = Written(tmp_path, told, run=told.run, started=started)
    assert written.verdict == "pass"
    assert all(each["already"] for each in written.data["spans"])
    assert written.data["locks"] == []


def test_a_change_in_place_that_was_not_verified_is_a_stop(tmp_path: Path) -> None:
    told = History()
    told.preflight(names=["OPT1"])
    told.apply("OPT1")
    assert Written(tmp_path, told).reasons == ["OPT1 is in place and was not verified since."]


@pytest.mark.parametrize(
    ("event_type", "against"),
    [
        ("rollout_watch_failed", "OPT1 stands although its watch failed."),
        (None, "OPT1 is in place, and its watch did not say that it ended."),
    ],
    ids=["failed", "did not end"],
)
def test_a_watch_that_did_not_pass_is_a_stop(tmp_path: Path, event_type: str | None, against: str) -> None:
    told = History()
    told.preflight(names=["OPT1"])
    told.apply("OPT1")
    told.verify("OPT1")
    told.rollout("rollout_watch_started", "OPT1", soak_s=60)
    if event_type:
        told.rollout(event_type, "OPT1", reasons=["errors is open"], health={"state": "bad"})
    assert Written(tmp_path, told).reasons == [against]


def test_another_target_of_the_same_release_is_another_story(tmp_path: Path) -> None:
    told = green()
    ours = list(told.events)
    there = [
        each
        for each in green().events
        if each.stream.startswith("rollout/") and each.event_type.startswith(("rollout_apply", "rollback"))
    ]
    elsewhere = History(events=ours)
    for each in there:
        elsewhere.add(
            each.stream, each.event_type, each.phase, **{**each.payload, "target": "999/other", "run": "rollout/x"}
        )
    elsewhere.add(
        f"rollout/{RELEASE}", "rollback_started", "OPT1", run="rollout/x", target="999/other", root="OPT1", why="asked"
    )
    assert Written(tmp_path, elsewhere).states["OPT1"] == "in place"


# -- no data -----------------------------------------------------------------------------------------------------------


def test_nothing_on_record_is_no_pass_and_says_no_data_everywhere(tmp_path: Path) -> None:
    written = Written(tmp_path, History())
    assert written.verdict == "stop"
    assert written.reasons == ["The ledger has no event of this run: no data is no good news."]
    for said in (
        "no step of a change is on record",
        "no script came to its end",
        "no query was timed",
        "no breaker was sampled",
    ):
        assert f"No data: {said}" in written.page
    assert "No gate of this run is on record." in written.page


def test_locks_that_were_not_measured_are_no_data_and_not_zero(tmp_path: Path) -> None:
    told = History()
    told.apply("OPT1", wait_s=None)
    written = Written(tmp_path, told)
    (row,) = written.data["locks"]
    assert (row["measured"], row["longest_wait_caused_s"], row["longest_exclusive_s"]) == (False, None, None)
    assert re.search(r"OPT1 apply.*?no data", written.page, re.DOTALL)


def test_a_lock_over_the_budget_is_marked(tmp_path: Path) -> None:
    told = History()
    told.apply("OPT1", wait_s=0.9)
    assert '<span class="over">900 ms</span> <span class="soft">of 200</span>' in Written(tmp_path, told).page


def test_a_window_without_a_timed_query_has_no_data(tmp_path: Path) -> None:
    """OPT5 is applied in 20 ms: no query was timed meanwhile, and that is not a latency of zero."""
    rows = Written(tmp_path, green(), looks(green())).data["latencies"]
    during = [row["during"] for row in rows if row["change"] == "OPT5"]
    assert {(each["n"], each["p50_ms"], each["p95_ms"]) for each in during} == {(0, None, None)}


def test_latency_is_told_before_during_and_after_each_change_with_its_n(tmp_path: Path) -> None:
    rows = Written(tmp_path, green(), looks(green())).data["latencies"]
    row = next(each for each in rows if (each["change"], each["canary"]) == ("OPT1", "public_view"))
    assert row["during"]["n"] == 14
    assert row["during"]["p95_ms"] > row["before"]["p95_ms"] > 22
    assert row["before"]["errors"] > 0


def test_a_breaker_shows_ok_bad_and_no_data_apart_and_how_long_nobody_looked(tmp_path: Path) -> None:
    told = verify_failed()
    written = Written(tmp_path, told, looks(told, bad="errors"))
    rows = {each["name"]: each for each in written.data["breakers"]}
    assert rows["errors"]["counts"]["bad"] > 0
    assert (rows["errors"]["state"], rows["errors"]["open"]) == ("opened", True)
    assert rows["replication_lag"]["counts"] == {"ok": 0, "bad": 0, "no data": rows["replication_lag"]["samples"]}
    assert rows["replication_lag"]["highest"] is None
    assert rows["latency"]["state"] == "never opened"


def test_a_silence_counts_only_while_a_step_ran(tmp_path: Path) -> None:
    """Between two runs nobody has to look."""
    told = History()
    told.change("OPT1")
    told.pass_time(86_400)
    told.change("OPT2", seconds=60.0)
    ends = [told.events[0].timestamp, told.events[-1].timestamp]
    watched = [Look(ends[0] + timedelta(seconds=nth), "disk", "ok", 0.2, 0.9) for nth in range(17)]
    later = ends[1] - timedelta(seconds=71)
    watched += [Look(later + timedelta(seconds=nth), "disk", "ok", 0.2, 0.9) for nth in (0, 1, 2, 3, 43, 44, 45)]
    (row,) = Written(tmp_path, told, watched).data["breakers"]
    assert row["unseen_s"] == pytest.approx(39, abs=1)


def test_a_breaker_that_is_held_stands_open_whatever_the_machine_found(tmp_path: Path) -> None:
    told = green()
    told.health("breaker_opened", "disk", reason="full", last=0.99, limit=0.95)
    told.health("breaker_held", "disk", "dba", reason="wait for the new disk")
    told.health("breaker_closed", "disk", by="watch", probes=3)
    (row,) = Written(tmp_path, told).data["breakers"]
    assert (row["state"], row["open"]) == ("held open by dba", True)
    told.health("breaker_released", "disk", "po", reason="it is there", held_by="dba")
    written = Written(tmp_path, told)
    assert (written.data["breakers"][0]["state"], written.data["breakers"][0]["open"]) == ("closed", False)
    assert [each["what"] for each in written.data["acts"][-2:]] == [
        "held breaker disk open",
        "released breaker disk, held by dba",
    ]


def test_samples_outlive_the_database_that_forgets_them(tmp_path: Path) -> None:
    """A run that is cleared days later is reported anew, when the samples of its first day are gone."""
    told = cleared_later()
    first = Written(tmp_path, told, looks(told))
    later = Written(tmp_path, told, [Look(told.now, "disk", "ok", 0.2, 0.9)])
    assert later.data["samples"]["health"]["n"] == first.data["samples"]["health"]["n"] + 1
    assert later.data["latencies"][0]["during"] == first.data["latencies"][0]["during"]


# -- who decided what --------------------------------------------------------------------------------------------------


def test_the_gate_that_let_it_through_is_shown_with_votes_reasons_and_evidence(tmp_path: Path) -> None:
    written = Written(tmp_path, green())
    (gate,) = written.data["gates"]
    assert (gate["word"], gate["by"], gate["reason"]) == (
        "Go",
        ["cfo", "po", "compliance", "security"],
        "read both reports",
    )
    assert [each["who"] for each in written.data["acts"]] == ["cfo", "po", "compliance", "security"]
    assert 'href="../../2026-11-23/stage3-x/rollback_proofs.html"' in written.page


def test_a_gate_of_a_sync_counts_when_a_change_was_applied_on_it(tmp_path: Path) -> None:
    told = History(run="daily_sync/run1")
    gate = told.gate()
    told.run = RUN
    told.preflight(names=["OPT1"])
    told.change("OPT1", gate=gate)
    assert [each["gate"] for each in Written(tmp_path, told).data["gates"]] == [gate]


def test_the_gate_of_another_run_is_left_out(tmp_path: Path) -> None:
    told = History(run="rollout/other")
    told.gate()
    told.run = RUN
    told.change("OPT1", gate=None)
    assert Written(tmp_path, told).data["gates"] == []


def test_a_no_go_is_shown_with_its_reason(tmp_path: Path) -> None:
    told = History()
    told.preflight()
    told.gate(decision="no_go", reason="the window is too short")
    written = Written(tmp_path, told)
    assert (written.data["gates"][0]["word"], written.verdict) == ("No-Go", "stop")
    assert "the window is too short" in written.page


# -- the page ----------------------------------------------------------------------------------------------------------


def test_a_silence_of_days_parts_the_timeline_in_two(tmp_path: Path) -> None:
    page = Written(tmp_path, cleared_later()).page
    timeline = page[page.index('id="timeline"') : page.index('id="rollbacks"')]
    assert len(re.findall("<h3>", timeline)) == 2
    assert "<h3>2026-11-27 " in timeline


def test_a_silence_within_a_long_piece_of_work_does_not_part_it() -> None:
    def at(*minutes: float) -> tuple[Any, Any]:
        return START + timedelta(minutes=minutes[0]), START + timedelta(minutes=minutes[1])

    assert bouts([at(0, 60), at(90, 100)]) == [at(0, 100)]
    assert bouts([at(0, 1), at(90, 100)]) == [at(0, 1), at(90, 100)]
    assert bouts([at(0, 1), at(0.5, 3), at(3.5, 4)]) == [at(0, 4)]
    assert bouts([]) == []


def test_each_bar_of_the_timeline_is_a_run_of_a_step(tmp_path: Path) -> None:
    page = Written(tmp_path, verify_failed()).page
    figures = [json.loads(each) for each in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    bars = {trace["name"]: trace["y"] for trace in figures[0]["data"] if trace["type"] == "bar"}
    assert bars == {
        "apply": ["OPT1", "OPT2", "OPT3"],
        "verify": ["OPT1", "OPT2"],
        "watch": ["OPT1", "OPT2"],
        "rollback": ["OPT3"],
        "failed": ["OPT3", "OPT3", "OPT3"],
    }
    marks = {trace["name"]: trace["y"] for trace in figures[0]["data"] if trace["type"] == "scatter"}
    assert marks["breaker opened"] == ["breakers"]
    assert marks["a person (number below)"] == ["people"]


@pytest.mark.parametrize("history", [green, verify_failed, cleared_later, killed, drifted, History])
def test_the_page_fetches_nothing_and_has_its_digest(tmp_path: Path, history: Callable[[], History]) -> None:
    told = history()
    written = Written(tmp_path, told, looks(told) if told.events else ())
    assert not re.search(r"@import|url\(|<link|<img", written.page)
    assert re.findall(r"https?://", written.page) == []
    digest = written.data.pop("digest")
    assert digest_of(written.data) == digest
    assert f"<code>{digest}</code>" in written.page


def test_the_same_events_give_the_same_digest_whenever_it_is_written(tmp_path: Path) -> None:
    told = green()
    first = Written(tmp_path, told, now=told.now).data["digest"]
    assert Written(tmp_path, told, events=told.events[::-1], now=told.now + timedelta(days=9)).data["digest"] == first


def test_hostile_texts_are_shown_as_text(tmp_path: Path) -> None:
    told = History(run=HOSTILE)
    told.rollout("rollout_apply_failed", HOSTILE, HOSTILE, error=HOSTILE, statement=HOSTILE)
    told.back(HOSTILE, note=HOSTILE, by=HOSTILE, because=HOSTILE, restored=False, differences=[HOSTILE])
    told.rollout("rollout_drifted", HOSTILE, differences=[HOSTILE])
    told.health("breaker_opened", HOSTILE, HOSTILE, reason=HOSTILE, window={HOSTILE: HOSTILE})
    told.cleared(HOSTILE, who=HOSTILE, note=HOSTILE)
    look = Look(START, HOSTILE, "ok", 1.0, 2.0, {"ms": {HOSTILE: 1.0}, "failed": {HOSTILE + "2": HOSTILE}})
    written = Written(
        tmp_path, told, [look], run=HOSTILE, title=HOSTILE, target=HOSTILE, release_name=HOSTILE, drift=[HOSTILE]
    )
    assert "<script>alert" not in written.page
    assert "<img" not in written.page
    assert "&lt;script&gt;alert" in written.page
    assert "{{ 7*7 }}" in written.page


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 3), st.text(max_size=6), st.lists(st.text(max_size=4), max_size=2),
    st.dictionaries(st.sampled_from(["digest", "facts", "n", "longest_wait_caused_s"]), st.text(max_size=4), max_size=2),
)  # fmt: skip
KEYS = (
    "run", "target", "verdict", "findings", "reasons", "step", "error", "transient", "attempt", "of", "why", "because", "root",
    "cleared_by", "note", "seconds", "restored", "differences", "proof", "fingerprint", "found", "explains", "changes", "locks",
    "statements", "scripts", "gate", "already", "backup", "headroom_bytes", "soak_s", "reason", "window", "last", "limit", "by",
    "held_by", "canaries", "signals", "tasks", "evidence", "asker", "decision",
)  # fmt: skip
TYPES = [
    each for each in EventType if each.startswith(("rollout_", "rollback_", "breaker_", "health_", "gate_", "task_c"))
]
STREAMS = (f"rollout/{RELEASE}", f"health/{RELEASE}", f"cleared/{RUN}", "gate/k")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(STREAMS),
            st.sampled_from(TYPES),
            st.sampled_from(["OPT1", "OPT2", None]),
            st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5),
        ),
        max_size=6,
    )
)
def test_a_report_can_be_written_of_any_events_whatever_their_payloads_lack(
    tmp_path: Path, story: list[tuple[str, EventType, str | None, dict[str, Any]]]
) -> None:
    """A ledger is read for years: a payload may lack what today's have, and the report of a rollout must still be written."""
    told = History()
    for stream, event_type, phase, payload in story:
        told.add(stream, event_type, phase, **{"run": RUN, **payload})
        told.pass_time(1)
    assert Written(tmp_path, told).verdict in ("pass", "stop")


# -- samples -----------------------------------------------------------------------------------------------------------


def test_stretches_tell_verdicts_and_silences_of_one_breaker_apart() -> None:
    moments = [*range(5), *range(20, 25)]
    verdicts = ["ok", "ok", "no_data", "no_data", "bad", *["ok"] * 5]
    samples = [
        Look(START + timedelta(seconds=at), "disk", verdict) for at, verdict in zip(moments, verdicts, strict=True)
    ]
    found = [
        (each.verdict, (each.ended - each.started).total_seconds(), each.samples) for each in stretches(seen(samples))
    ]
    assert found == [("ok", 2, 2), ("no data", 2, 2), ("bad", 1, 1), ("not sampled", 15, 0), ("ok", 5, 5)]


def test_a_query_that_timed_out_has_failed_and_has_no_time() -> None:
    looked = [
        Look(START, "latency", "bad", 2000.0, 60.0, {"ms": {"by_id": 0.6, "latest": 2000.0}}),
        Look(START, "errors", "bad", 0.5, 0.0, {"failed": {"latest": "timeout"}}),
    ]
    assert [(each.canary, each.ms, each.error) for each in canaries(seen(looked))] == [
        ("by_id", 0.6, ""),
        ("latest", None, "timeout"),
    ]


def test_a_verdict_that_nobody_knows_is_no_data() -> None:
    assert seen([Look(START, "disk", "fine", 1.0)])[0].verdict == "no data"
