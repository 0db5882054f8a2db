"""Readers and writers at a set rate against any copy of the demo catalogue, in a process of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import comporta
from comporta.demo.losses import LostWrite, lost_writes
from comporta.demo.operations import READS, WRITES
from comporta.demo.record import AcknowledgedWrite, Mark, Operation, TrafficRecord
from comporta.demo.workload import WorkloadSettings
from comporta.errors import ComportaError

__all__ = [
    "READS",
    "WRITES",
    "AcknowledgedWrite",
    "LostWrite",
    "Mark",
    "Operation",
    "Traffic",
    "TrafficFailed",
    "TrafficProgress",
    "TrafficRecord",
    "lost_writes",
]


class TrafficFailed(ComportaError):
    """The traffic could not start, or its process ended by itself: there is no record then."""


@dataclass(frozen=True)
class TrafficProgress:
    """Counts up to now: operations answered, how many of them failed, and how many wait for a free connection."""

    done: int = 0
    failed: int = 0
    waiting: int = 0


class Traffic:
    """Traffic on the catalogue behind ``dsn`` from ``start`` (or ``with``) until ``stop``, which gives the record.

    Reading runs under the role gis_reader, writing under gis_editor: ``dsn`` must be able to take both roles, or
    give the editor's sign-in as ``editor_dsn``. One
    traffic at a time on a database, or ``lost_writes`` would blame the other.
    """

    def __init__(
        self,
        dsn: str,
        reads_per_s: float = 50,
        writes_per_s: float = 50,
        seed: int = 1,
        connections: int = 8,
        *,
        editor_dsn: str | None = None,
        search_share: float = READS["search"],
        drain_s: float = 30.0,
        start_timeout_s: float = 60.0,
    ) -> None:
        self._settings = WorkloadSettings(
            dsn,
            editor_dsn or dsn,
            reads_per_s,
            writes_per_s,
            seed,
            connections,
            search_share=search_share,
            drain_s=drain_s,
        )
        self._start_timeout_s = start_timeout_s
        self._marks: list[Mark] = []
        self._messages: dict[str, Any] = {}
        self._progress = TrafficProgress()
        self._ready = threading.Event()
        self._record: TrafficRecord | None = None
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._last_words = ""
        self._listener: threading.Thread | None = None

    def start(self) -> Traffic:
        """Start the process and wait until every connection is open; TrafficFailed says why it cannot be."""
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "comporta.demo.workload"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=_environment(),
        )
        output = cast(IO[str], self._process.stdout)
        self._listener = threading.Thread(target=self._listen, args=(output,), name="traffic listener", daemon=True)
        self._listener.start()
        # Settings go through the pipe, so that no password shows in the process list.
        self._send(json.dumps(asdict(self._settings)))
        if not self._ready.wait(self._start_timeout_s) or "ready" not in self._messages:
            self.kill()
            raise TrafficFailed(
                f"The traffic did not start: {self._reason()}",
                remedy="Check that the catalogue is loaded and that the sign-in may become gis_reader and gis_editor.",
            )
        return self

    def mark(self, label: str) -> float:
        """Note that a phase begins now; returns the epoch seconds recorded."""
        moment = time.time()
        self._marks.append(Mark(moment, label))
        return moment

    def progress(self) -> TrafficProgress:
        """Counts as of at most half a second ago."""
        return self._progress

    def is_running(self) -> bool:
        """True from ``start`` until ``stop``, unless the process died."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> TrafficRecord:
        """End the schedule, wait at most ``drain_s`` for what is under way, and return the record."""
        if self._record is None:
            self._send("stop")
            self._finish(timeout_s=self._settings.drain_s + 30)
            if "record" not in self._messages:
                raise TrafficFailed(
                    f"The traffic ended without a record: {self._reason()}",
                    remedy="Repeat the measurement; nothing can be said about lost writes of this one.",
                )
            record = TrafficRecord.from_json(json.dumps(self._messages["record"]))
            self._record = replace(record, marks=tuple(self._marks))
        return self._record

    def kill(self) -> None:
        """End the process at once, without a record."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._finish(timeout_s=10)

    def __enter__(self) -> Traffic:
        return self.start() if self._process is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop if nobody did; when the body raised, its error goes first and the process is ended without ceremony."""
        if self._record is None:
            self.stop() if error is None else self.kill()

    def _listen(self, output: IO[str]) -> None:
        for line in output:
            message = json.loads(line)
            if "done" in message:
                self._progress = TrafficProgress(**message)
            else:
                self._messages.update(message)
                self._ready.set()
        self._ready.set()

    def _send(self, line: str) -> None:
        """Write one line to the process; a process that is gone shows by its missing answer."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()

    def _finish(self, timeout_s: float) -> None:
        if self._process is None or self._listener is None:
            return
        self._listener.join(timeout_s)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        if self._errors is not None and not self._errors.closed:
            self._errors.seek(0)
            self._last_words = self._errors.read().strip()[-500:]
            self._errors.close()

    def _reason(self) -> str:
        """What the process said of its failure, or the end of what it wrote to standard error."""
        if self._process is None:
            return "its process was never started"
        return str(self._messages.get("error") or self._last_words or "its process gave no answer")


def _environment() -> dict[str, str]:
    """The process must import the same package as we did, wherever we were started from."""
    root = str(Path(comporta.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))}
