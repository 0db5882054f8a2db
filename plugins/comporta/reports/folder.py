"""The folder of one run: each step leaves one JSON file, so that steps may run in different processes and be repeated."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from comporta.errors import ConfigurationError


@dataclass(frozen=True)
class RunFolder:
    """``archives/<date>/<stage>-<run id>/``."""

    path: Path

    @classmethod
    def make(cls, archives: Path, stage: str, run_id: str, started: datetime) -> RunFolder:
        """Create the folder; it is named after the run's start, so a repeated step finds it again."""
        safe = "".join(character if character.isalnum() or character in "-_." else "-" for character in run_id)
        path = archives / f"{started:%Y-%m-%d}" / f"{stage}-{safe}"
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def write(self, name: str, record: Any) -> Path:
        """Write ``name.json`` whole or not at all."""
        file = self.path / f"{name}.json"
        part = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")  # two may write the same at once
        part.write_text(json.dumps(record, indent=1, default=str, ensure_ascii=False), encoding="utf-8")
        part.replace(file)
        return file

    def read(self, name: str) -> Any:
        """Read ``name.json``; ConfigurationError says which step has not run."""
        file = self.path / f"{name}.json"
        if not file.exists():
            raise ConfigurationError(
                f"{file} is missing: the step that writes it did not finish",
                remedy="Run that step first (in Airflow: clear the task before this one).",
            )
        return json.loads(file.read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        """True when the step that writes ``name.json`` finished."""
        return (self.path / f"{name}.json").exists()
