"""The final validation leaves evidence of each check, passed or not, and a check that fails says how."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from comporta.detector.validation import CheckFailed, Validation
from comporta.errors import ConfigurationError
from comporta.reports.folder import RunFolder


class Shell:
    """Answers every command with one status and text, and writes what ``coverage json`` would."""

    def __init__(self, status: int = 0, said: str = "12 passed in 3 s", percent: float = 91.26) -> None:
        self.status, self.said, self.percent = status, said, percent
        self.calls: list[tuple[Sequence[str], dict[str, Any]]] = []

    def __call__(self, command: Sequence[str], **given: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append((command, given))
        if "json" in command and self.status == 0:
            files = {"run.py": {"summary": {"percent_covered": self.percent}}}
            told = {"totals": {"percent_covered": self.percent}, "files": files}
            Path(command[-1]).write_text(json.dumps(told), encoding="utf-8")
        return subprocess.CompletedProcess(command, self.status, stdout=self.said, stderr="")


def validation(folder: Path, shell: Shell) -> Validation:
    (folder / "tests" / "unit").mkdir(parents=True, exist_ok=True)
    (folder / "tests" / "unit" / "test_detector_score.py").touch()
    made = RunFolder.make(folder / "archives", "backtest", "one", datetime(2026, 11, 30, tzinfo=UTC))
    return Validation(folder, made, shell)


def test_the_evidence_is_that_of_all_three_checks_without_their_output(tmp_path: Path) -> None:
    checks = validation(tmp_path, Shell())
    for check in (checks.tests, checks.types, checks.coverage):
        check()

    evidence = checks.evidence()

    assert {name: each["passed"] for name, each in evidence.items()} == dict.fromkeys(evidence, True)
    assert list(evidence) == ["tests", "types", "coverage"]
    assert evidence["tests"]["said"] == "12 passed in 3 s"
    assert evidence["coverage"]["percent"] == 91.3
    assert "output" not in evidence["tests"]


def test_a_check_that_fails_ends_with_its_last_lines_and_keeps_the_rest(tmp_path: Path) -> None:
    checks = validation(tmp_path, Shell(1, "FAILED test_x\n1 failed"))

    with pytest.raises(CheckFailed, match="1 failed"):
        checks.tests()

    assert checks.folder.read("check-tests")["passed"] is False
    assert "FAILED test_x" in checks.folder.read("check-tests")["output"]


@pytest.mark.parametrize(("percent", "passes"), [(80.0, False), (80.1, True)])
def test_more_than_80_percent_of_the_lines_must_be_reached(tmp_path: Path, percent: float, passes: bool) -> None:
    checks = validation(tmp_path, Shell(percent=percent))

    if passes:
        assert checks.coverage()["passed"]
    else:
        with pytest.raises(CheckFailed, match="more than 80 % are asked"):
            checks.coverage()
        assert checks.folder.read("check-coverage")["passed"] is False


def test_coverage_that_nobody_counted_is_an_error_and_no_zero(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no coverage was counted"):
        validation(tmp_path, Shell(1, "No data to report.")).coverage()


def test_a_check_finds_no_server_and_no_airflow_of_the_process_that_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COMPORTA_TARGET_DSN", "AIRFLOW_HOME", "PGHOST"):
        monkeypatch.setenv(name, "x")
    shell = Shell()

    validation(tmp_path, shell).types()

    command, given = shell.calls[0]
    assert command[-1] == "mypy"
    assert not {name for name in given["env"] if name.startswith(("COMPORTA_", "AIRFLOW", "PG"))}


def test_without_tests_nothing_is_said_to_have_passed(tmp_path: Path) -> None:
    made = RunFolder.make(tmp_path, "backtest", "one", datetime(2026, 11, 30, tzinfo=UTC))

    with pytest.raises(ConfigurationError, match=r"no test_detector_\*\.py"):
        Validation(tmp_path, made, Shell()).tests()
