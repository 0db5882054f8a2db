"""``comporta backtest`` as its users start it: exit status, what a machine reads, and which input is refused in which words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from comporta.detector.bars import Bars
from comporta.detector.synthetic import make_synthetic

LENIENT = {
    "trade": {"reward_risk": 1.0},
    "gates": {
        "opportunities_at_least": 1, "alerts_at_least": 1, "trades_at_least": 1, "wins_min": 0.05, "null_p_max": 1.0,
        "null_draws": 20, "bootstrap_draws": 20,
    },
}  # fmt: skip


def comporta(project: Path, archives: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from comporta.cli import main; main()", "backtest", *arguments],
        env={
            **os.environ, "PYTHONPATH": str(project / "plugins"), "COMPORTA_HOME": str(project),
            "COMPORTA_ARCHIVES": str(archives), "COMPORTA_CONTROL_DSN": "",
        },
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def settings_file(folder: Path, content: object) -> str:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(file)


def csv_of(bars: Bars, file: Path) -> Path:
    rows = zip(bars.open_time, bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True)
    lines = [",".join(str(float(value)) if n else f"{value}" for n, value in enumerate(row)) for row in rows]
    file.write_text("\n".join(["time,open,high,low,close,volume", *lines]) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def told(project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("backtest")
    done = comporta(project, folder, "--synthetic", "26", "--json", "--settings", settings_file(folder, LENIENT))
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_machine_reads_hits_n_value_interval_and_verdict_of_each_gate(told: tuple[int, dict[str, Any], str]) -> None:
    assert set(told[1]["gates"]) == {"capture", "false_positives", "wins"}
    for gate in told[1]["gates"].values():
        assert {"hits", "n", "value", "interval", "verdict"} <= set(gate)
        assert gate["verdict"] in {"PASS", "FAIL", "INSUFFICIENT"}


def test_a_win_rate_comes_with_its_reward_risk_and_its_null(told: tuple[int, dict[str, Any], str]) -> None:
    assert told[1]["gates"]["wins"]["reward_risk"] == 1.0
    assert told[1]["gates"]["wins"]["null_win"] is not None


def test_the_exit_status_is_0_when_every_gate_passes_and_1_when_not(told: tuple[int, dict[str, Any], str]) -> None:
    passed = {gate["verdict"] for gate in told[1]["gates"].values()} == {"PASS"}
    assert told[0] == (0 if passed else 1)
    assert told[1]["verdict"] == "PASS" if passed else told[1]["verdict"] != "PASS"


def test_the_guards_ran_and_the_report_lies_where_it_is_said(told: tuple[int, dict[str, Any], str]) -> None:
    assert all(guard["passed"] for guard in told[1]["guards"])
    assert len(told[1]["guards"]) == 5
    assert Path(told[1]["report"]).is_file()
    assert told[1]["report"] in told[2].replace("\n", "")


def test_too_few_events_are_insufficient_in_words_and_no_pass(project: Path, tmp_path: Path) -> None:
    done = comporta(project, tmp_path, "--synthetic", "2", "--json")

    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["verdict"] == "INSUFFICIENT"
    assert "0 opportunities were seen, at least 40 are needed." in done.stderr


def test_without_guards_nothing_passes(project: Path, tmp_path: Path) -> None:
    lenient = settings_file(tmp_path, LENIENT)
    done = comporta(project, tmp_path, "--synthetic", "24", "--no-guards", "--json", "--settings", lenient)

    assert done.returncode == 1
    assert json.loads(done.stdout)["verdict"] != "PASS"
    assert "No guard ran" in done.stderr


def test_a_file_with_times_that_state_their_zone_is_read(project: Path, tmp_path: Path) -> None:
    file = csv_of(make_synthetic(3, 1)[0], tmp_path / "bars.csv")

    done = comporta(project, tmp_path, str(file), "--tz", "UTC", "--symbol", "ABC", "--json")

    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["bars"]["symbol"] == "ABC"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "bars.csv: expected bars, found an empty file"),
        ("time,open,high,low,close,volume\n2024-01-02 09:00,1,1,1,1,1\n2024-01-02 09:01,1,1,1,1,1\n", "zone"),
        ("time,open,high\n2024-01-02 09:00,1,1\n", "low"),
    ],
    ids=["empty", "naive times", "columns"],
)
def test_a_bad_file_is_refused_with_status_2_and_a_remedy(
    project: Path, tmp_path: Path, content: str, named: str
) -> None:
    file = tmp_path / "bars.csv"
    file.write_text(content, encoding="utf-8")

    done = comporta(project, tmp_path, str(file), "--json")

    assert done.returncode == 2
    assert done.stdout == ""
    assert "bars.csv" in done.stderr
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) >= 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "expected a file of bars or synthetic sessions, found neither"),
        (["bars.csv", "--synthetic", "3"], "found both"),
        (["nowhere.csv", "--tz", "UTC"], "nowhere.csv"),
        (["bars.csv", "--adjustment", "some"], "--adjustment: expected one of"),
    ],
    ids=["no source", "two sources", "no such file", "no such adjustment"],
)
def test_a_wrong_call_is_refused_with_status_2(project: Path, tmp_path: Path, arguments: list[str], named: str) -> None:
    done = comporta(project, tmp_path, *arguments)

    assert done.returncode == 2
    assert named in done.stderr.replace("\n", " ")


def test_an_unknown_setting_is_refused_by_its_file_and_its_name(project: Path, tmp_path: Path) -> None:
    wrong = settings_file(tmp_path, {"range": {"treshold": 2.0}})

    done = comporta(project, tmp_path, "--synthetic", "2", "--settings", wrong)

    assert done.returncode == 2
    assert "settings.yaml: range: unknown treshold" in done.stderr.replace("\n", "")
