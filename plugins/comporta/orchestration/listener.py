"""Mirrors what Airflow says of its tasks and runs into the ledger, so that clearing or deleting a run erases nothing.

The hooks run in the process of the task, in the scheduler and in the API server: they take notes and return. One thread a process
writes the notes down. It never raises, never makes a task wait for the database, and keeps at most ``_ROOM`` notes while the
database is away. Notes that found no room are counted, and the next event says how many (``lost_before``).
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from comporta.ledger import Ledger

_ROOM = 1_000
_PATIENCE_S = 2.0
"""How long a process that ends waits for its last notes to be written, and how long each step of writing may take."""
_PAUSE_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """One change of state, as it will be an event."""

    event_type: str
    stream: str
    feature: str
    phase: str | None
    key: str
    payload: Mapping[str, Any]


@dataclass
class Writer:
    """The thread of one process that turns notes into events; it starts with the first note."""

    dsn: str
    room: int = _ROOM
    pause_s: float = _PAUSE_S
    pid: int = field(default_factory=os.getpid)

    def __post_init__(self) -> None:
        self._notes: Queue[Note] = Queue(self.room)
        self._lost = 0
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._written = threading.Condition()

    def put(self, note: Note) -> None:
        """Take a note; never waits."""
        try:
            self._notes.put_nowait(note)
        except Full:
            self._lost += 1
            return
        if self._thread is None:
            with self._start:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="comporta ledger", daemon=True)
                    self._thread.start()

    def flush(self, patience_s: float = _PATIENCE_S) -> bool:
        """Wait for what was noted to be written, for a bounded time; True when all of it is."""
        with self._written:
            return self._written.wait_for(lambda: not self._notes.unfinished_tasks, patience_s)

    def _run(self) -> None:
        note: Note | None = None
        while True:
            note = note or self._notes.get()
            try:
                with bounded_ledger(self.dsn) as ledger:
                    while note is not None:
                        self._append(ledger, note)
                        self._done()
                        note = self._next()
            except Exception as error:
                # Whatever it is, no task may suffer from it.
                log.warning("a change of state is not in the ledger yet, next try in %.0f s: %s", self.pause_s, error)
                time.sleep(self.pause_s)

    def _next(self) -> Note | None:
        """The next note, None when none came for a moment: then the session ends."""
        try:
            return self._notes.get(timeout=0.2)
        except Empty:
            return None

    def _append(self, ledger: Ledger, note: Note) -> None:
        import psycopg

        from comporta.ledger import IdempotencyConflict, LedgerBusy, LedgerError, LedgerNotInstalled, NewEvent

        lost, self._lost = self._lost, 0
        payload = {**note.payload, "lost_before": lost} if lost else note.payload
        event = NewEvent(
            event_type=note.event_type,
            feature=note.feature,
            actor="airflow",
            workflow="airflow",
            phase=note.phase,
            payload=payload,
            idempotency_key=note.key,
        )
        try:
            ledger.append(note.stream, [event])
        except IdempotencyConflict:  # said before, from another host perhaps: the first account stands
            self._lost += lost
        except (LedgerBusy, LedgerNotInstalled, psycopg.Error):
            self._lost += lost
            raise
        except LedgerError as error:  # would be refused again
            self._lost += lost + 1
            log.warning("a change of state is not in the ledger: %s", error)

    def _done(self) -> None:
        with self._written:
            self._notes.task_done()
            self._written.notify_all()


def bounded_ledger(dsn: str) -> Ledger:
    """The ledger, for those who must not wait: it gives up after two seconds of signing in, of waiting and of writing."""
    from psycopg.conninfo import make_conninfo

    from comporta.ledger import Ledger

    bounded = f"-c statement_timeout={int(_PATIENCE_S * 1000)}"
    return Ledger(
        make_conninfo(dsn, connect_timeout=int(_PATIENCE_S), options=bounded),
        lock_timeout_ms=int(_PATIENCE_S * 1000),
    )


_writers: dict[int, Writer] = {}


def _writer() -> Writer | None:
    """The writer of this process: a fork has the notes of its parent, but not the thread. None without a control database."""
    pid = os.getpid()
    if pid not in _writers:
        dsn = os.environ.get("COMPORTA_CONTROL_DSN")
        if not dsn:
            return None
        _writers.clear()
        _writers[pid] = Writer(dsn)
        atexit.register(_flush)
    return _writers[pid]


def _flush() -> None:
    writer = _writers.get(os.getpid())
    if writer is not None and not writer.flush():
        log.warning("this process ends before its last changes of state are in the ledger")


def _note(make: Any, *arguments: Any) -> None:
    try:
        writer = _writer()
        if writer is not None:
            writer.put(make(*arguments))
    except Exception:
        log.warning("a change of state is not in the ledger", exc_info=True)


def _of_task(ti: Any, state: str, error: object = None) -> Note:
    """What a task instance says, whether it is the task's own or a row of Airflow's database."""
    run = getattr(getattr(ti, "_ti_context_from_server", None), "dag_run", None)
    mapped = ti.map_index is not None and ti.map_index >= 0
    payload: dict[str, Any] = {
        "dag": ti.dag_id,
        "run": ti.run_id,
        "task": ti.task_id,
        "map_index": ti.map_index,
        "try": ti.try_number,
        "state": state,
        "hostname": getattr(ti, "hostname", None) or socket.gethostname(),
    }
    if user := getattr(run, "triggering_user_name", None):
        payload["triggered_by"] = user
    if error is not None:
        payload["error"] = (f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error))[
            :500
        ]
    return Note(
        "task_state_changed",
        f"airflow/{ti.dag_id}/{ti.run_id}",
        ti.dag_id,
        f"{ti.task_id}[{ti.map_index}]" if mapped else ti.task_id,
        f"airflow/{ti.id}/{ti.try_number}/{state}",
        payload,
    )


def _of_run(run: Any, state: str, message: str) -> Note:
    payload: dict[str, Any] = {
        "dag": run.dag_id,
        "run": run.run_id,
        "run_type": str(getattr(run.run_type, "value", run.run_type)),
        "state": state,
        "cleared": run.clear_number,
        "hostname": socket.gethostname(),
    }
    if user := getattr(run, "triggering_user_name", None):
        payload["triggered_by"] = user
    if message:
        payload["message"] = message[:500]
    moment = run.start_date if state == "running" else run.end_date
    return Note(
        "run_state_changed",
        f"airflow/{run.dag_id}/{run.run_id}",
        run.dag_id,
        None,
        f"airflow/{run.dag_id}/{run.run_id}/{run.clear_number}/{state}/{moment.isoformat() if moment else ''}",
        payload,
    )


class Listener:
    """What Airflow calls; registered by the plugin."""

    @hookimpl
    def on_task_instance_running(self, task_instance: Any) -> None:
        """A task begins, or goes on after it waited."""
        _note(_of_task, task_instance, "running")

    @hookimpl
    def on_task_instance_success(self, task_instance: Any) -> None:
        """A task succeeded, or a person said so."""
        _note(_of_task, task_instance, "success")

    @hookimpl
    def on_task_instance_failed(self, task_instance: Any, error: object) -> None:
        """A task failed for good or for this try, or a person said so."""
        state = getattr(task_instance.state, "value", task_instance.state)
        _note(_of_task, task_instance, "up_for_retry" if state == "up_for_retry" else "failed", error)

    @hookimpl
    def on_task_instance_skipped(self, task_instance: Any) -> None:
        """A task skipped itself, or a person said so; what the scheduler skips it does not tell."""
        _note(_of_task, task_instance, "skipped")

    @hookimpl
    def on_dag_run_running(self, dag_run: Any, msg: str) -> None:
        """A run begins, or goes on after it was cleared."""
        _note(_of_run, dag_run, "running", msg)

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        """A run ended well, or a person said so."""
        _note(_of_run, dag_run, "success", msg)

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        """A run failed, or a person said so."""
        _note(_of_run, dag_run, "failed", msg)

    @hookimpl
    def before_stopping(self) -> None:
        """The process ends: what was noted is written, within two seconds."""
        _flush()


listener = Listener()
