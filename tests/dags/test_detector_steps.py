"""The tasks of the detector's DAG, each called as Airflow calls it, over one folder; Airflow's context is a small fake."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from comporta.orchestration import detector, stage_run
from comporta.settings import Settings


class Instance:
    """A task instance that remembers what was pushed."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class World:
    """One DAG run over a folder of its own, without a ledger."""

    def __init__(self, project: Path, archives: Path, **params: Any) -> None:
        self.settings = Settings(home=project, archives=archives)
        run = SimpleNamespace(run_id="manual", run_after=datetime(2026, 11, 30, tzinfo=UTC), triggering_user_name="po")
        form = dict.fromkeys(("file", "tz", "symbol", "adjustment")) | {"synthetic": 23} | params
        self.context = {"dag_run": run, "params": form, "ti": Instance()}
        self.folder = archives / "2026-11-30" / "backtest-manual"

    def install(self, monkeypatch: pytest.MonkeyPatch) -> World:
        monkeypatch.setattr(stage_run, "settings_from_airflow", lambda: self.settings)
        for module in (stage_run, detector):
            monkeypatch.setattr(module, "get_current_context", lambda: self.context)
        return self

    def verdict(self, word: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "result.json").write_text(json.dumps({"verdict": word}), encoding="utf-8")


@pytest.fixture
def world(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(project, tmp_path).install(monkeypatch)


def test_the_steps_lead_from_synthetic_bars_to_a_page_and_to_people(world: World) -> None:
    for step in (detector.load, detector.quality, detector.run, detector.score, detector.gates, detector.benchmark):
        step.function()
    page = detector._write_report()

    assert (world.settings.archives_path / page).is_file()
    assert world.context["ti"].pushed == {"report": page}
    assert detector.decide().operator.python_callable() == "detector_verdict"  # 23 sessions are too few to tell


@pytest.mark.parametrize(
    ("verdict", "next_tasks"),
    [("PASS", ["run_tests", "check_types"]), ("FAIL", "tune"), ("INSUFFICIENT", "detector_verdict")],
)
def test_the_verdict_says_where_the_run_goes_on(world: World, verdict: str, next_tasks: str | list[str]) -> None:
    world.verdict(verdict)

    assert detector.decide().operator.python_callable() == next_tasks


def test_a_file_that_is_refused_fails_the_task_in_the_words_of_the_source(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "bars.csv"
    empty.touch()
    World(project, tmp_path, file=str(empty)).install(monkeypatch)

    with pytest.raises(AirflowFailException, match="expected bars, found an empty file"):
        detector.load.function()


def test_too_few_sessions_to_tune_are_skipped_and_people_asked(world: World) -> None:
    for step in (detector.load, detector.quality, detector.run, detector.score):
        step.function()

    with pytest.raises(AirflowSkipException, match="scored sessions are needed"):
        detector.tune.function(0)


def test_a_walk_forward_in_parts_is_chosen_from_and_run_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comporta.detector import run as runs

    plan = tmp_path / "tuning.yaml"
    plan.write_text(
        "axes: {range.threshold: [2.0]}\ntrain_sessions: 1\ntest_sessions: 1\npurge_sessions: 0\nembargo_sessions: 0\n",
        encoding="utf-8",
    )
    opened = runs.open_backtest

    @contextmanager
    def with_plan(*args: Any, **kwargs: Any) -> Any:
        with opened(*args, **kwargs) as run:
            run.tuning_file = plan
            yield run

    monkeypatch.setattr(runs, "open_backtest", with_plan)
    for step in (detector.load, detector.quality, detector.run, detector.score, detector.gates):
        step.function()
    for shard in range(detector.TUNE_TASKS):
        detector.tune.function(shard)
    detector.choose.function()

    page = detector._run_again()

    assert page.endswith("backtest-manual-tuned/backtest.html")
    assert "settings in use" in (world.settings.archives_path / page).read_text(encoding="utf-8")
