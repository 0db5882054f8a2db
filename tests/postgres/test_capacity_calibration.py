"""After a rollout the forecast is compared with production and recorded, once a day; before it, nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from tests.postgres.conftest import Servers
from tests.postgres.gate_desk import open_desk
from tests.unit import capacity_story as story

from comporta.capacity.calibration import (
    CalibrationError,
    NotDue,
    calibrate,
    calibrate_when_due,
    last_calibration,
    next_look,
)
from comporta.capacity.production import Production, look_at_production
from comporta.gates.evidence import Collector
from comporta.gates.policy import load_policy
from comporta.ledger import EventType, Ledger, NewEvent
from comporta.postgres.connection import connect
from comporta.release.model import Release, load_release
from comporta.reports.folder import RunFolder
from comporta.rollout.target import identity
from comporta.settings import Settings
from comporta.sync import record
from comporta.sync.checklist import Facts, check

NOW = datetime(2027, 5, 30, 12, tzinfo=UTC)
STEPS = (
    EventType.ROLLOUT_APPLY_STARTED,
    EventType.ROLLOUT_APPLY_FINISHED,
    EventType.ROLLOUT_VERIFY_PASSED,
    EventType.ROLLOUT_WATCH_PASSED,
)


@pytest.fixture
def ledger(control: str) -> Iterator[Ledger]:
    with open_desk(control), Ledger(control) as opened:
        yield opened


@pytest.fixture
def settings(project: Path, tmp_path: Path, control: str, servers: Servers) -> Settings:
    return Settings(
        home=project,
        control_dsn=control,
        target_dsn=servers.target.dsn,
        shadow_dsn=servers.shadow.dsn,
        archives=tmp_path,
    )


@pytest.fixture(scope="module")
def release(project: Path) -> Release:
    return load_release(project / "config" / "release.yaml", project / "sql")


def plan(ledger: Ledger, settings: Settings, release: Release, run: str = "run-1") -> str:
    """A run of STAGE 4 that left its folder and its event."""
    measured = story.measured(noise=0.0)
    folder = RunFolder.make(settings.archives_path, "stage4", run, NOW)
    folder.write("forecast", story.forecast().to_dict())
    folder.write("target", measured.target.to_dict())
    folder.write("mix", measured.mix.to_dict())
    for rung in measured.rungs:
        folder.write(f"rung-{rung.state}-{rung.size:g}x-c{rung.clients:03}-r{rung.round}", rung.to_dict())
    where = str(folder.path.relative_to(settings.archives_path))
    scripts = {change.name: change.apply.sha256 for change in release.changes}
    payload = {
        "verdict": "pass",
        "digest": run * 4,
        "report": f"{where}/report.html",
        "folder": where,
        "answers": [],
        "scripts": scripts,
    }
    event = NewEvent(
        event_type=EventType.CAPACITY_PLANNED, feature=release.name, workflow="stage4", actor="t", payload=payload
    )
    ledger.append(f"capacity/{run}", [event])
    return str(payload["report"])


def roll_out(ledger: Ledger, settings: Settings, release: Release) -> None:
    with connect(settings.require("target"), name="comporta/test") as conn:
        target = identity(conn)
    told = [(step, change.name) for change in release.changes for step in STEPS]
    events = [
        NewEvent(
            event_type=step, feature=release.name, workflow="rollout", phase=phase, actor="t",
            payload={"run": "r", "target": target},
        )
        for step, phase in (*told, (EventType.ROLLOUT_FINISHED, "outcome"))
    ]  # fmt: skip
    ledger.append(f"rollout/{release.name}", events)


def seen(*_: object) -> Production:
    whole = story.measured(noise=0.0)
    mix = whole.mix.model_copy(update={"since": NOW})  # the statistics were reset: what they hold is of since
    return Production(target=whole.target, mix=mix, refresh_s=None, canaries_p95_ms=12.0)


def test_the_forecast_before_the_rollout_is_compared_and_the_next_report_gets_it(
    ledger: Ledger, settings: Settings, release: Release, control: str
) -> None:
    report = plan(ledger, settings, release)
    roll_out(ledger, settings, release)
    plan(ledger, settings, release, "after")
    made = calibrate(settings, release, actor="cli:ana", now=NOW, look=seen)
    assert (made.run, made.report) == ("run-1", report)
    assert {each.what for each in made.items} >= {"rows", "growth a month", "disk in use", "mean"}
    assert last_calibration(control, release.name) == made
    assert last_calibration(control, "another-release") is None
    (event,) = ledger.read("capacity/run-1", event_type=EventType.CALIBRATED)
    assert event.payload["median_error"] == made.median_error


def test_the_same_rollout_is_compared_once_a_day(ledger: Ledger, settings: Settings, release: Release) -> None:
    plan(ledger, settings, release)
    roll_out(ledger, settings, release)
    first = calibrate(settings, release, actor="a", now=NOW, look=seen)
    again = calibrate(settings, release, actor="b", now=NOW + timedelta(hours=3), look=seen)
    later = calibrate(settings, release, actor="b", now=NOW + timedelta(days=30), look=seen)
    assert again == first
    assert later.at != first.at
    assert len(ledger.read("capacity/run-1", event_type=EventType.CALIBRATED)) == 2


def test_looks_are_due_at_once_after_a_week_a_month_and_every_quarter() -> None:
    days = [0, 7, 30, 121, 212, 303]
    due = [next_look(NOW, [NOW + timedelta(days=day, hours=1) for day in days[:n]]) for n in range(len(days))]
    assert [(each - NOW).days for each in due] == days
    late = next_look(NOW, [NOW + timedelta(days=150)])  # looks that were missed are not made up for
    assert (late - NOW).days == 212


def test_a_comparison_that_is_not_due_says_when_the_next_one_is(
    ledger: Ledger, settings: Settings, release: Release
) -> None:
    plan(ledger, settings, release)
    roll_out(ledger, settings, release)
    rolled_out_at = calibrate_when_due(settings, release, actor="a", look=seen).rolled_out_at
    with pytest.raises(NotDue, match=f"the next look is due on {rolled_out_at + timedelta(days=7):%Y-%m-%d}"):
        calibrate_when_due(settings, release, actor="a", now=rolled_out_at + timedelta(days=6), look=seen)
    assert calibrate_when_due(settings, release, actor="a", now=rolled_out_at + timedelta(days=8), look=seen)


def test_nothing_is_compared_before_the_rollout_is_whole(ledger: Ledger, settings: Settings, release: Release) -> None:
    plan(ledger, settings, release)
    with pytest.raises(CalibrationError, match="is not rolled out") as raised:
        calibrate(settings, release, actor="a", now=NOW, look=seen)
    assert "comporta rollout" in raised.value.remedy
    assert ledger.read("capacity/run-1", event_type=EventType.CALIBRATED) == []


def test_a_plan_that_was_made_after_the_rollout_is_no_forecast_of_it(
    ledger: Ledger, settings: Settings, release: Release
) -> None:
    roll_out(ledger, settings, release)
    plan(ledger, settings, release)
    with pytest.raises(CalibrationError, match="before its rollout began"):
        calibrate(settings, release, actor="a", now=NOW, look=seen)


def test_production_is_looked_at_without_a_scheduler_a_load_or_a_sample(
    ledger: Ledger, settings: Settings, release: Release, target_dsn: str
) -> None:
    found = look_at_production(settings, release, "4711/gis", NOW)
    assert found.target.database_bytes > 0
    assert (found.refresh_s, found.canaries_p95_ms) == (None, None)


def test_a_refresh_is_the_middle_one_of_the_scheduled_runs_that_had_work_to_do(
    ledger: Ledger, settings: Settings, release: Release, target_dsn: str
) -> None:
    since = datetime.now(UTC) - timedelta(hours=2)
    with psycopg.connect(target_dsn, autocommit=True) as conn:
        job = conn.execute(
            "select cron.schedule('refresh', '0 0 1 1 *', 'call catalogue.refresh_search_job()')"
        ).fetchone()
        assert job is not None
        for minutes, seconds, status in (
            (300, 9.0, "succeeded"),  # before the rollout
            (50, 0.01, "succeeded"),  # nothing had changed
            (40, 1.0, "succeeded"),
            (30, 1.4, "succeeded"),
            (20, 1.2, "succeeded"),
            (10, 30.0, "failed"),
        ):
            conn.execute(
                "insert into cron.job_run_details (jobid, runid, database, status, start_time, end_time) select %s, %s,"
                " current_database(), %s, now() - make_interval(mins => %s),"
                " now() - make_interval(mins => %s) + make_interval(secs => %s)",
                (job[0], 1_000_000 + minutes, status, minutes, minutes, seconds),
            )
    assert look_at_production(settings, release, "4711/gis", since).refresh_s == pytest.approx(1.2)


def test_the_rollout_gate_rests_on_the_capacity_plan(
    ledger: Ledger, settings: Settings, release: Release, project: Path
) -> None:
    file = load_policy(project / "config" / "gates.yaml")
    without = Collector(settings, file).of("rollout", "decision", {})
    report = plan(ledger, settings, release)
    item = {each.name: each for each in Collector(settings, file).of("rollout", "decision", {}).items}["capacity"]
    assert (item.link, item.title) == (report, "STAGE 4, capacity plan")
    assert item.detail is not None
    assert item.detail.startswith("verdict pass")
    assert {each.name: each.detail for each in without.items}["capacity"] == "no report"
    (checked,) = check(Facts(settings, file, ledger, record.now(ledger)), ["capacity_planned"])
    assert checked.state == "ok"
