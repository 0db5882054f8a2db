"""What samples and breakers add up to: three-valued, and never good without having been seen."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comporta.health.baseline import Baseline, CanaryBaseline
from comporta.health.canaries import Run, error_share, p95, percentile
from comporta.health.sample import Sample, judged
from comporta.health.signals import free_space, judge_canaries
from comporta.health.status import Health, Hold, Standing, health_of
from comporta.release.health import HealthPlan, Limit
from comporta.sync.checklist import health_ok

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
NOT_WATCHED = {"not_watched": "nothing here has it"}
SIGNALS = ("errors", "latency", "lock_waits", "replication_lag", "disk", "dead_tuples", "connections")
PLAN = HealthPlan(stale_s=20, min_samples=6)


def standing(name: str = "errors", **given: Any) -> Standing:
    values: dict[str, Any] = {
        "breaker": name, "now": NOW, "target": "1/gis", "state": None, "since": None, "opened_at": None, "reason": None,
        "n": 12, "bad": 0, "no_data": 0, "runs": 0, "slow": 0, "last_at": NOW, "last_verdict": "ok", "last_value": 0.0,
        "last_bound": 1.0, "last_why": "share 0, at most 1", "last_data_at": NOW,
    }  # fmt: skip
    return Standing(**values | given)


def opened(name: str = "errors", state: str = "open") -> Standing:
    return standing(name, state=state, since=NOW, opened_at=NOW, reason="7 of 12 samples were bad")


def whole(*different: Standing, holds: tuple[Hold, ...] = (), plan: HealthPlan = PLAN) -> Health:
    of = {each.breaker: each for each in different}
    return health_of("r", plan, [of.get(name, standing(name)) for name in plan.signals.names], holds)


def hold(breaker: str = "all") -> Hold:
    return Hold(breaker, "dba", "a call from operations", NOW)


NOBODY_LOOKS = standing(
    last_at=NOW - timedelta(seconds=20), last_data_at=NOW - timedelta(seconds=20), n=0, last_verdict="ok"
)
CASES: dict[str, tuple[Health, str, str]] = {
    "all seen to be good": (whole(), "ok", ""),
    "one open": (whole(opened()), "bad", "errors: open since 2026-11-24 10:00:00 UTC: 7 of 12 samples were bad"),
    "one half-open": (whole(opened(state="half_open")), "bad", "errors: half-open since 2026-11-24 10:00:00 UTC"),
    "closed again": (whole(replace(opened(), state="closed")), "ok", ""),
    "held, all": (whole(holds=(hold(),)), "bad", "all breakers are held open by dba: a call from operations"),
    "held, one": (whole(holds=(hold("disk"),)), "bad", "disk: disk is held open by dba: a call from operations"),
    "held, one that is not watched any more": (whole(holds=(hold("queue"),)), "bad", "queue is held open by dba"),
    "never looked at": (
        whole(standing(last_at=None, last_data_at=None, last_verdict=None, n=0)),
        "no data",
        "errors: it was never looked at",
    ),
    "nobody looks": (whole(NOBODY_LOOKS), "no data", "errors: nobody has looked since 2026-11-24 09:59:40 UTC"),
    "looked at, nothing seen": (
        whole(standing(last_data_at=NOW - timedelta(seconds=20), last_verdict="no_data", last_why="it hides")),
        "no data",
        "errors: it hides",
    ),
    "looked at, never seen": (
        whole(standing(last_data_at=None, last_verdict="no_data", last_why="it hides", n=0)),
        "no data",
        "errors: it hides",
    ),
    "one blink": (whole(standing(last_verdict="no_data", last_data_at=NOW - timedelta(seconds=5))), "ok", ""),
    "not seen often enough": (whole(standing(n=5)), "no data", "errors: fewer than 6 samples with data so far"),
    "bad and no data": (whole(opened(), standing("disk", n=0)), "bad", "errors: open"),
    "open, and nobody looks": (
        whole(replace(NOBODY_LOOKS, state="open", since=NOW, opened_at=NOW, reason="7 of 12")),
        "bad",
        "errors: open since",
    ),
}


@pytest.mark.parametrize(("found", "state", "said"), CASES.values(), ids=list(CASES))
def test_health_is_what_the_breakers_add_up_to(found: Health, state: str, said: str) -> None:
    assert found.state == state
    assert found.ok is (state == "ok")
    assert (found.why == ()) is (state == "ok")
    assert said in "\n".join(found.why)
    assert json.loads(json.dumps(found.as_json()))["state"] == state


def test_what_is_not_watched_says_why_and_does_not_count() -> None:
    plan = HealthPlan.model_validate({"signals": {"disk": NOT_WATCHED}})
    found = whole(standing("disk", last_at=None, last_data_at=None, n=0), plan=plan)
    (disk,) = (each for each in found.breakers if each.name == "disk")
    assert (found.state, disk.state, disk.why) == ("ok", "not watched", "nothing here has it")


def test_a_hold_counts_on_what_is_not_watched_too() -> None:
    plan = HealthPlan.model_validate({"signals": {"disk": NOT_WATCHED}})
    assert whole(holds=(hold("disk"),), plan=plan).state == "bad"


def test_when_nothing_is_watched_nothing_is_good() -> None:
    found = whole(plan=HealthPlan.model_validate({"signals": dict.fromkeys(SIGNALS, NOT_WATCHED)}))
    assert (found.state, found.why) == ("no data", ("nothing is watched",))


# -- the checklist ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "state", "detail"),
    [
        (whole(), "ok", "7 breakers are closed"),
        (whole(opened(), opened("disk")), "blocker", "open: errors, disk (comporta health status)"),
        (whole(standing(n=0)), "no_data", "no data: errors (comporta health status)"),
        (
            whole(opened(), standing("disk", n=0), holds=(hold(),)),
            "blocker",
            "all breakers are held open by dba: a call from operations; open: errors; no data: disk (comporta health status)",
        ),
        (whole(holds=(hold("disk"),)), "blocker", "disk is held open by dba: a call from operations (comporta health status)"),
    ],
    ids=["good", "open", "no data", "all of it", "one held"],
)  # fmt: skip
def test_a_go_is_blocked_by_what_is_bad_and_by_what_nobody_saw(found: Health, state: str, detail: str) -> None:
    finding = health_ok(found)
    assert (finding.state, finding.detail) == (state, detail)
    assert finding.evidence is not None


def test_the_words_of_a_blocker_are_the_same_while_a_breaker_is_probed_and_numbers_move() -> None:
    """Votes are bound to them."""
    first = whole(opened())
    later = whole(
        replace(opened(state="half_open"), opened_at=NOW + timedelta(minutes=1), reason="bad while half-open")
    )
    assert health_ok(first).detail == health_ok(later).detail
    assert first.why != later.why


# -- samples ---------------------------------------------------------------------------------------------------------


def judge(value: float | None, baseline: float | None = None, **limit: Any) -> Sample:
    return judged("x", Limit.model_validate(limit), value, baseline, "things")


@pytest.mark.parametrize(
    ("sample", "verdict", "why"),
    [
        (judge(5, at_most=5), "ok", "things: 5, at most 5"),
        (judge(5.1, at_most=5), "bad", "things: 5.1, at most 5"),
        (judge(None, at_most=5), "no data", "things: unknown"),
        (judge(math.nan, at_most=5), "no data", "unknown"),
        (judge(math.inf, at_most=5), "no data", "unknown"),
        (judge(29, 10, times=3, floor=1), "ok", "at most 30"),
        (judge(31, 10, times=3, floor=1), "bad", "at most 30"),
        (judge(0, times=3, floor=1), "no data", "comporta health baseline"),
        (judge(0, times=3, floor=1, at_most=5), "no data", "comporta health baseline"),
        (judge(6, times=3, floor=1, at_most=5), "bad", "at most 5"),
    ],
)
def test_a_sample_is_held_against_its_limit(sample: Sample, verdict: str, why: str) -> None:
    assert sample.verdict == verdict
    assert why in sample.why


@settings(deadline=None, derandomize=True)
@given(
    value=st.none() | st.floats(),
    baseline=st.none() | st.floats(0, 1e9),
    at_most=st.none() | st.floats(0, 1e9),
    times=st.none() | st.floats(1, 100),
)
def test_no_data_is_never_ok_and_nothing_above_a_limit_is(
    value: float | None, baseline: float | None, at_most: float | None, times: float | None
) -> None:
    if at_most is None and times is None:
        return
    found = judge(value, baseline, at_most=at_most, times=times, floor=None if times is None else 1.0)
    if found.verdict == "ok":
        assert value is not None
        assert math.isfinite(value)
        assert at_most is None or value <= at_most
        assert times is None or (baseline is not None and value <= max(times * baseline, 1.0))


def canaries(runs: list[Run], baseline: Baseline | None = None, **latency: Any) -> dict[str, Sample]:
    plan = HealthPlan.model_validate({"signals": {"latency": latency or {"times": 3, "floor": 1}}})
    return {sample.breaker: sample for sample in judge_canaries(plan, runs, baseline, "nobody ran")}


NORMAL = Baseline(
    "1/gis", {"a": CanaryBaseline(20, 9, 10, 0), "b": CanaryBaseline(20, 90, 100, 0)}, {"errors": 0.0, "latency": 100.0}
)


def test_a_run_is_slow_against_its_own_query_though_the_p95_is_not_high() -> None:
    found = canaries([Run("a", 31), Run("b", 50)], NORMAL)["latency"]
    assert (found.verdict, found.runs, found.slow, found.value, found.bound) == ("ok", 2, 1, 50, 300)


def test_a_run_into_its_time_out_is_an_error_and_slow() -> None:
    found = canaries([Run("a", 2000, "57014: canceling statement", timed_out=True), Run("b", 50)], NORMAL)
    assert (found["errors"].verdict, found["errors"].value) == ("bad", 0.5)
    assert "a: 57014" in found["errors"].why
    assert (found["latency"].verdict, found["latency"].slow) == ("bad", 1)


@pytest.mark.parametrize(
    ("runs", "baseline", "errors", "latency", "why"),
    [
        ([], NORMAL, "no data", "no data", "nobody ran"),
        ([Run("a", 1, "42P01: gone")], NORMAL, "bad", "no data", "no canary was answered"),
        ([Run("a", 1)], None, "ok", "no data", "comporta health baseline"),
        ([Run("c", 1)], NORMAL, "ok", "no data", "the baseline has no time of c"),
        ([Run("a", 1)], NORMAL, "ok", "ok", "p95 of canaries, ms: 1, at most 300"),
    ],
    ids=["none", "all fail", "no baseline", "a new canary", "good"],
)
def test_what_canaries_tell(runs: list[Run], baseline: Baseline | None, errors: str, latency: str, why: str) -> None:
    found = canaries(runs, baseline)
    assert (found["errors"].verdict, found["latency"].verdict) == (errors, latency)
    assert why in found["latency"].why


def test_an_absolute_limit_on_latency_needs_no_baseline() -> None:
    found = canaries([Run("a", 5), Run("b", 50)], None, times=None, floor=None, at_most=40)["latency"]
    assert (found.verdict, found.slow) == ("bad", 1)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([], 0.95) is None
    assert percentile([3], 0.95) == 3
    assert percentile(list(range(1, 21)), 0.95) == 19
    assert percentile(list(range(1, 101)), 0.95) == 95
    assert p95([Run("a", 1, "42P01: gone")]) is None
    assert error_share([]) is None


def test_a_baseline_comes_back_from_the_ledger_as_it_went_in() -> None:
    assert Baseline.parse(NORMAL.as_json(), 7) == replace(NORMAL, event=7)
    never = CanaryBaseline.of([Run("a", 1, "42P01: gone")])
    assert (never.n, never.p95_ms, never.errors) == (1, None, 1)


def test_a_folder_of_the_right_name_proves_nothing(tmp_path: Any) -> None:
    assert free_space(None, 1) == "the sign-in may not know the data directory: grant it pg_monitor"
    assert free_space(str(tmp_path), 1) == "the target's data directory cannot be seen from here"
    (tmp_path / "global").mkdir()
    (tmp_path / "global/pg_control").write_bytes((4711).to_bytes(8, "little") + b"\0" * 8)
    (tmp_path / "pg_wal").mkdir()
    assert free_space(str(tmp_path), 1) == f"{tmp_path} on this machine belongs to another server"
    free, everything = free_space(str(tmp_path), 4711)
    assert 0 < float(free) <= float(everything)
