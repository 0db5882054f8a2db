"""STAGE 4 end to end on real servers: a small ladder through pgbench, resumed after a kill, stopped by rules and by breakers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import yaml

from comporta.capacity.climber import LadderStopped
from comporta.capacity.ladder import owed
from comporta.capacity.model import BEFORE, Forecast, RungResult
from comporta.capacity.pgbench import LoadFailed, WeightedScript, Window, run_load
from comporta.capacity.runner import COPY, FORECAST, CapacityRun, earlier_runs, open_capacity
from comporta.errors import ConfigurationError
from comporta.health import hold, release_hold
from comporta.ledger import EventType, Ledger
from comporta.local.databases import prepare_control
from comporta.settings import Settings

pytestmark = pytest.mark.timeout(900)  # the first test waits for a whole stage

PROJECT = Path(__file__).resolve().parents[2]
SMALL = {
    "clients": [1, 2, 4], "sizes": [1, 2], "seconds": 1, "warm_up_s": 0.2, "rounds": 1,
    "each_change_clients": [2], "each_change_sizes": [1],
}  # fmt: skip
STARTED = datetime(2026, 11, 30, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def settings(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The real release with a small ladder, on the test servers; tests do not wait for a breaker of a busy machine."""
    home = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "sql", home / "sql")
    shutil.copytree(PROJECT / "config", home / "config")
    release = yaml.safe_load((home / "config" / "release.yaml").read_text(encoding="utf-8"))
    release["capacity"] |= {"ladder": SMALL, "quick": SMALL}
    release["health"]["signals"]["latency"] = {"at_most": 60_000, "times": None, "floor": None}
    (home / "config" / "release.yaml").write_text(yaml.safe_dump(release, sort_keys=False), encoding="utf-8")
    control = servers.control.database("capacity")
    with psycopg.connect(servers.control.database("postgres"), autocommit=True) as conn:
        conn.execute("drop database if exists capacity with (force)")
    prepare_control(control, PROJECT)
    return Settings(
        home=home,
        target_dsn=servers.target.fresh_catalogue(),
        shadow_dsn=servers.shadow.dsn,
        control_dsn=control,
        archives=tmp_path_factory.mktemp("archives"),
    )


def planning(settings: Settings, run_id: str, say: list[str] | None = None) -> Any:
    return open_capacity(
        settings, run_id=run_id, started=STARTED, actor="test", say=(say if say is not None else []).append
    )


@pytest.fixture(scope="module")
def whole(settings: Settings) -> Iterator[tuple[CapacityRun, list[RungResult], str]]:
    seen: list[RungResult] = []
    with planning(settings, "whole") as run:
        _, verdict = run.run_all(seen.append)
        yield run, seen, verdict


def test_every_rung_of_the_plan_is_measured_in_every_state_of_the_release(whole: Any) -> None:
    run, seen, _ = whole
    assert [(r.state, r.size, r.clients) for r in seen] == [
        (r.state, r.size, r.clients) for r in owed(run.ladder, run.climb.states)
    ]
    assert all(r.transactions > 0 and r.failed == 0 for r in seen), [(r.state, r.failed) for r in seen if r.failed]
    assert {facts.state for facts in run.climb.facts()} == {BEFORE, *(change.name for change in run.release.changes)}


def test_every_transaction_of_the_mix_is_answered_before_and_after_the_release(whole: Any) -> None:
    run, seen, _ = whole
    kinds = {each.name for each in run.measured().mix.transactions}
    for state in (BEFORE, run.release.changes[-1].name):
        answered = set().union(*(r.calls for r in seen if r.state == state))
        assert answered >= kinds - {"search", "delete"}  # the rarest may not have had their turn in so short a rung


def test_the_clone_grows_for_the_next_size(whole: Any) -> None:
    run, _, _ = whole
    rows = {facts.size: facts.rows for facts in run.climb.facts() if facts.state == BEFORE}
    assert rows[2] == pytest.approx(2 * rows[1], rel=0.05)


def test_the_plan_is_in_the_ledger_with_its_digest_and_its_answers(settings: Settings, whole: Any) -> None:
    run, seen, verdict = whole
    with Ledger(settings.require("control")) as ledger:
        events = list(ledger.every(stream="capacity/whole"))
    assert events[0].event_type == EventType.CAPACITY_STARTED
    assert sum(event.event_type == EventType.RUNG_MEASURED for event in events) == len(seen)
    planned = events[-1]
    assert planned.event_type == EventType.CAPACITY_PLANNED
    assert planned.payload["verdict"] == verdict
    assert (settings.archives_path / planned.payload["report"]).is_file()
    made = Forecast.from_dict(run.folder.read(FORECAST))
    assert len(planned.payload["answers"]) == len(made.answers) > 5


def test_a_finished_run_measures_nothing_again(settings: Settings, whole: Any) -> None:
    again: list[RungResult] = []
    with planning(settings, "whole") as run:
        for size in run.ladder.sizes:
            run.climb_size(size, again.append)
    assert again == []


class Instance:
    """A task instance beside which no dry run is under way; what is pushed is kept."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def get_dr_count(self, *_: Any, **__: Any) -> int:
        return 0

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Outlets:
    """The events of a task's assets."""

    def __init__(self) -> None:
        self.of_one = SimpleNamespace(extra={})

    def __getitem__(self, _: Any) -> SimpleNamespace:
        return self.of_one


def test_the_tasks_of_the_dag_are_the_steps_of_the_run(
    settings: Settings, whole: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Called as Airflow calls them, with the run's id and moment: what stands is found, and nothing is measured again."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))  # Airflow looks there when it is imported
    from airflow.sdk.exceptions import AirflowFailException

    from comporta.orchestration import stage4, stage_run

    run, _, verdict = whole
    outlets, instance = Outlets(), Instance()
    context = {
        "dag_run": SimpleNamespace(run_id="whole", run_after=STARTED, triggering_user_name="po"),
        "params": {"quick": False, "fresh_clone": False},
        "ti": instance,
        "outlet_events": outlets,
    }
    monkeypatch.setattr(stage_run, "settings_from_airflow", lambda: settings)
    for module in (stage_run, stage4):
        monkeypatch.setattr(module, "get_current_context", lambda: context)
    stage4.prepare.function()
    for size in (*run.ladder.sizes, 0.25):
        stage4.load_ladder.function(size=size)
    stage4.fit.function()
    stage4.forecast.function()
    try:
        page = stage4._write_report()
    except AirflowFailException:
        assert verdict == "stop"
        page = instance.pushed["report"]
    assert (settings.archives_path / page).is_file()
    assert outlets.of_one.extra["verdict"] == verdict
    assert instance.pushed == {"report": page}


def test_a_size_that_is_not_on_the_ladder_is_refused_by_name(settings: Settings) -> None:
    with planning(settings, "other") as run, pytest.raises(ConfigurationError, match=r"no size 3: it has \[1.0, 2.0\]"):
        run.climb_size(3)


def test_a_run_does_not_go_on_on_another_copy_of_the_target(settings: Settings, whole: Any) -> None:
    assert whole
    with planning(settings, "moved") as run:
        run.prepare()
        run.folder.write(COPY, {"copy": "gis_image_of_another_time"})
        with pytest.raises(ConfigurationError, match="the copy of the target that this run began on is gone"):
            run.climb_size(1)


def test_an_open_breaker_stops_the_ladder_and_what_stands_is_kept(settings: Settings, whole: Any) -> None:
    run_of_whole, _, _ = whole
    with planning(settings, "held") as run:
        run.prepare()
        hold(settings, run.release, actor="test", reason="somebody needs the target")
        try:
            with pytest.raises(LadderStopped, match="held open by test: somebody needs the target") as stopped:
                run.climb_size(1)
        finally:
            release_hold(settings, run.release, actor="test", reason="done")
    assert "no finished rung is repeated" in (stopped.value.remedy or "")
    assert run_of_whole.climb.left() == 0


def test_a_shadow_without_room_stops_the_ladder(
    settings: Settings, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert whole
    monkeypatch.setattr("comporta.capacity.runner.disk_of", lambda _: (5, 100, True))
    with planning(settings, "full") as run:
        run.prepare()
        with pytest.raises(LadderStopped, match=r"5\.0% of the shadow's disk is free, and the plan stops below 10%"):
            run.climb_size(1)


def test_a_run_that_was_killed_goes_on_without_repeating_a_rung(settings: Settings, whole: Any) -> None:
    assert whole
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT / "plugins"),
        "COMPORTA_HOME": str(settings.home),
        "COMPORTA_TARGET_DSN": settings.require("target"),
        "COMPORTA_SHADOW_DSN": settings.require("shadow"),
        "COMPORTA_CONTROL_DSN": settings.require("control"),
        "COMPORTA_ARCHIVES": str(settings.archives_path),
    }
    command = [sys.executable, "-c", "from comporta.cli import main; main()", "capacity", "--quick", "--json"]

    def rungs() -> dict[Path, int]:
        files = settings.archives_path.glob("*/stage4-cli-*/rung-*.json")
        return {file: file.stat().st_mtime_ns for file in files}

    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while len(rungs()) < 2 and first.poll() is None:
            time.sleep(0.05)  # watches for files, decides nothing
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    stood = rungs()
    assert len(stood) >= 2
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode in (0, 1), again.stderr
    assert f"goes on: {len(stood)} rungs stand" in again.stderr
    finished = rungs()
    assert {file: finished[file] for file in stood} == stood
    (run,) = [run for run in earlier_runs(settings.archives_path) if run.run_id.startswith("cli-")]
    assert run.finished
    with Ledger(settings.require("control")) as ledger:
        phases = [
            event.phase
            for event in ledger.every(stream=f"capacity/{run.run_id}")
            if event.event_type == EventType.RUNG_MEASURED
        ]
    assert len(set(phases)) == len(phases)


def test_a_load_script_that_cannot_run_is_told_in_pgbench_s_words(settings: Settings, tmp_path: Path) -> None:
    script = tmp_path / "wrong.sql"
    script.write_text("select * from catalogue.no_such_table;\n", encoding="utf-8")
    with pytest.raises(LoadFailed, match="no_such_table"):
        run_load(
            settings.require("shadow"), [WeightedScript("wrong", script, 1)],
            clients=1, window=Window(0, 1), longest_s=5, seed=1, variables={},
        )  # fmt: skip
