"""The final validation of the detector: its tests, ``mypy --strict``, how much of it the tests reach, each with evidence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comporta.errors import ComportaError, ConfigurationError
from comporta.reports.folder import RunFolder

COVERAGE_MIN = 80.0
TIMEOUT_S = 1800
CHECKS = ("tests", "types", "coverage")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


class CheckFailed(ComportaError):
    """A check of the detector's own code failed: its last lines are in the message, its whole output is in the run's folder."""


@dataclass
class Validation:
    """The three checks of the project in ``home``; each leaves ``check-<name>.json`` in ``folder``, passed or not."""

    home: Path
    folder: RunFolder
    run: Run = subprocess.run

    def tests(self) -> dict[str, Any]:
        """Run the tests of the detector, while counting which lines they reach."""
        files = sorted(
            str(file.relative_to(self.home)) for file in (self.home / "tests" / "unit").glob("test_detector_*.py")
        )
        if not files:
            raise ConfigurationError(
                f"no test_detector_*.py under {self.home / 'tests' / 'unit'}",
                remedy="Run where the project's tests are.",
            )
        counting = ["coverage", "run", f"--data-file={self._counts}", "--source=comporta.detector", "-m"]
        return self._check("tests", [*counting, "pytest", "-q", *files], {"files": len(files)})

    def types(self) -> dict[str, Any]:
        """``mypy --strict``, as the project's own settings have it, over the whole package."""
        return self._check("types", ["mypy"], {})

    def coverage(self) -> dict[str, Any]:
        """More than 80 % of the detector's lines must have been reached; ``tests`` counted them."""
        counts = self.folder.path / "coverage.json"
        made = self._call(["coverage", "json", f"--data-file={self._counts}", "-o", str(counts)])
        if made.returncode:
            raise ConfigurationError(
                f"no coverage was counted: {made.stderr.strip() or made.stdout.strip()}", remedy="Run the tests first."
            )
        told = json.loads(counts.read_text(encoding="utf-8"))
        percent = float(told["totals"]["percent_covered"])
        files = {name: round(each["summary"]["percent_covered"], 1) for name, each in sorted(told["files"].items())}
        record = {
            "passed": percent > COVERAGE_MIN,
            "percent": round(percent, 1),
            "at_least": COVERAGE_MIN,
            "files": files,
        }
        self.folder.write("check-coverage", record)
        if not record["passed"]:
            raise CheckFailed(
                f"the tests reach {percent:.1f} % of the detector's lines, more than {COVERAGE_MIN:g} % are asked",
                remedy=f"The least covered: {', '.join(sorted(files, key=lambda name: files[name])[:5])}.",
            )
        return record

    def evidence(self) -> dict[str, Any]:
        """What the checks left, without their output: what a sign-off rests on."""
        found = {name: self.folder.read(f"check-{name}") for name in CHECKS}
        return {name: {key: value for key, value in each.items() if key != "output"} for name, each in found.items()}

    @property
    def _counts(self) -> Path:
        return self.folder.path / "coverage.data"

    def _check(self, name: str, command: Sequence[str], told: dict[str, Any]) -> dict[str, Any]:
        done = self._call(command)
        output = (done.stdout + done.stderr).strip()
        last = output.splitlines()[-1] if output else ""
        record = {**told, "passed": done.returncode == 0, "command": " ".join(command[-3:]), "said": last}
        self.folder.write(f"check-{name}", {**record, "output": output})
        if done.returncode:
            tail = "\n".join(output.splitlines()[-15:])
            raise CheckFailed(
                f"{name}: failed\n{tail}", remedy=f"The whole output is in check-{name}.json of the run's folder."
            )
        return record

    def _call(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        # A test must not find the servers, nor the Airflow, of the process that runs it.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("COMPORTA_", "AIRFLOW", "PG"))
        }
        return self.run(
            [sys.executable, "-m", *command],
            cwd=self.home,
            env={**environment, "PYTHONPATH": str(self.home / "plugins")},
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
