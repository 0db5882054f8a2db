"""Runs the Airflow processes and what stands beside them in the background: starts what ended again, ends all on request."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from comporta.errors import ComportaError
from comporta.local import environment
from comporta.local.layout import Layout
from comporta.local.processes import Process, boot_id, send, session_members, terminate

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
ANCHORER = "ledger-anchor"
CATCHER = "mail-catcher"
HEALTH_MONITOR = "health-monitor"
SUPERVISED = (*COMPONENTS, ANCHORER, CATCHER, HEALTH_MONITOR)
PATIENCE_S = 20.0
"""The triggerer needs more than 6 s to hand its triggers over."""

log = logging.getLogger("comporta.supervisor")


class SupervisorFailed(ComportaError):
    """The processes could not be started or stopped; the log of the one concerned is named."""


@dataclass(frozen=True)
class Record:
    """What a supervisor started, as kept on disk; a record of another boot names nobody."""

    boot: str
    supervisor: Process
    children: Mapping[str, Process]

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """The record on disk, None when there is none, it is of another boot, or its writing was cut short."""
        try:
            raw = json.loads(path.read_text())
            record = cls(
                raw["boot"],
                Process(**raw["supervisor"]),
                {name: Process(**child) for name, child in raw["children"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if record.boot == boot_id() else None

    def write(self, path: Path) -> None:
        """Replace the record on disk."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(path)


def record_of(layout: Layout) -> Record | None:
    """The record of this checkout's supervisor, None when none was started in this boot."""
    return Record.read(layout.supervisor)


def is_running(layout: Layout) -> bool:
    """True while this checkout's supervisor runs."""
    record = record_of(layout)
    return record is not None and record.supervisor.alive


def leftovers(layout: Layout) -> list[Process]:
    """Supervised processes of this checkout, whether or not their supervisor still runs."""
    record = record_of(layout)
    if record is None:
        return []
    members = [session_members(child, layout.airflow_home) for child in record.children.values()]
    return [process for session in members for process in session]


def start(layout: Layout, *, wait_s: float = 20.0) -> None:
    """Start the supervisor in the background unless it runs; what a killed one left behind is ended first."""
    if is_running(layout):
        return
    if leftovers(layout):
        stop(layout)
    layout.supervisor.unlink(missing_ok=True)
    layout.logs.mkdir(parents=True, exist_ok=True)
    layout.airflow_home.mkdir(parents=True, exist_ok=True)
    with (layout.logs / "supervisor.log").open("ab") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "comporta.local", "supervise"],
            cwd=layout.project,
            env={**os.environ, "COMPORTA_HOME": str(layout.project)},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    deadline = time.monotonic() + wait_s
    while not is_running(layout):
        if child.poll() is not None or time.monotonic() > deadline:
            raise SupervisorFailed("the supervisor did not start", remedy=f"See {layout.logs / 'supervisor.log'}.")
        time.sleep(0.05)


def stop(layout: Layout) -> bool:
    """End the supervisor and every process that it started; True when there was something to end."""
    record = record_of(layout)
    if record is None:
        return False
    found = record.supervisor.alive or bool(leftovers(layout))
    send(record.supervisor, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S + 10
    while record.supervisor.alive and time.monotonic() < deadline:
        time.sleep(0.1)
    send(record.supervisor, signal.SIGKILL)
    if not terminate(lambda: leftovers(layout), patience_s=PATIENCE_S):
        ids = ", ".join(str(process.pid) for process in leftovers(layout))
        raise SupervisorFailed(
            f"processes {ids} do not end, even when killed", remedy="They wait in the kernel: see dmesg."
        )
    layout.supervisor.unlink(missing_ok=True)
    return found


@dataclass
class _Child:
    """One supervised process and when it may be started again."""

    name: str
    process: subprocess.Popen[bytes]
    identity: Process
    started_at: float
    failures: int = 0
    due_at: float | None = None


class Supervisor:
    """The loop that runs in the background process: one component each in a session and a log file of its own."""

    def __init__(
        self,
        layout: Layout,
        *,
        first_delay_s: float = 1.0,
        longest_delay_s: float = 60.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.layout = layout
        self.patience_s = patience_s
        self.first_delay_s = first_delay_s
        self.longest_delay_s = longest_delay_s
        self._ending = threading.Event()
        self._environment = environment.for_child(environment.read(layout.environment))

    def run(self, commands: Mapping[str, list[str]]) -> None:
        """Start all ``commands`` and keep them running until SIGTERM or SIGINT."""
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self._end)
        with self._only_one():
            children = [
                _Child(name, *self._spawn(name, command), time.monotonic()) for name, command in commands.items()
            ]
            self._write_record(children)
            while not self._ending.wait(0.5):
                restarted = [child.name for child in children if self._look_after(child, commands[child.name])]
                if restarted:
                    self._write_record(children)
            log.info("ending %s", ", ".join(commands))
            terminate(lambda: leftovers(self.layout), patience_s=self.patience_s)
            for child in children:
                child.process.poll()
            log.info("ended")

    def _look_after(self, child: _Child, command: list[str]) -> bool:
        """Start a child that ended, after a delay that doubles while it keeps ending early; True when it was started."""
        now = time.monotonic()
        if child.process.poll() is None:
            if child.failures and now - child.started_at > self.longest_delay_s:
                child.failures = 0
            return False
        if child.due_at is None:
            delay = min(self.longest_delay_s, self.first_delay_s * 2**child.failures)
            log.warning("%s ended with status %s; next start in %.0f s", child.name, child.process.returncode, delay)
            child.failures += 1
            child.due_at = now + delay
        if now < child.due_at:
            return False
        # What a crash left of the session, such as its log server, would hold the ports that the next one needs.
        terminate(lambda: session_members(child.identity, self.layout.airflow_home), patience_s=self.patience_s)
        child.process, child.identity = self._spawn(child.name, command)
        child.started_at, child.due_at = now, None
        return True

    def _spawn(self, name: str, command: list[str]) -> tuple[subprocess.Popen[bytes], Process]:
        path = self.layout.logs / f"{name}.log"
        with path.open("ab") as stream:
            stream.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} starting {name}\n".encode())
            process = subprocess.Popen(
                command,
                cwd=self.layout.airflow_home,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        identity = Process.of(process.pid)
        assert identity is not None, "a child that nobody waited for is in /proc, dead or alive"
        log.info("started %s, pid %s, log %s", name, process.pid, path)
        return process, identity

    def _write_record(self, children: list[_Child]) -> None:
        me = Process.of(os.getpid())
        assert me is not None
        Record(boot_id(), me, {child.name: child.identity for child in children}).write(self.layout.supervisor)

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        with (self.layout.state / "supervisor.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SupervisorFailed("another supervisor of this project runs", remedy="Run `make status`.") from None
            yield

    def _end(self, sign: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self._ending.set()


def commands(programs: Path) -> dict[str, list[str]]:
    """The command of each process, from the environment that holds ``programs``."""
    airflow = {name: [str(programs / "airflow"), name] for name in COMPONENTS}
    return {
        **airflow,
        ANCHORER: [str(programs / "comporta"), "events", "anchor", "--follow"],
        CATCHER: [str(programs / "python"), "-m", "comporta.local.mail_catcher"],
        HEALTH_MONITOR: [str(programs / "comporta"), "health", "watch"],
    }
