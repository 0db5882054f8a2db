"""Which relation locks a session holds, for how long, and who waits behind them.

The sampling loop runs inside a server process of its own (``sample_locks.sql``): a look costs no round trip, and it
commits after each one, so ``CREATE INDEX CONCURRENTLY`` never waits for it. A thread here only collects what it tells.
Between two looks a lock can come and go unseen; ``TraceQuality`` says how far apart the looks were, and the runner adds
the locks that it read itself before each COMMIT (``ExactLock``), which cannot be missed.

All times are epoch seconds of the server's clock.
"""

from __future__ import annotations

import json
import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from comporta.postgres.connection import Connection, connect
from comporta.postgres.queries import load

TRACE_NAME: Final = "comporta-lock-trace"

ACCESS_EXCLUSIVE: Final = "AccessExclusiveLock"
BLOCKS_WRITES: Final = frozenset({ACCESS_EXCLUSIVE, "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock"})
# CONCURRENTLY keeps this one across its own transactions, as a session lock.
_SPANS_TRANSACTIONS: Final = frozenset({"ShareUpdateExclusiveLock"})


@dataclass(frozen=True)
class LockHold:
    """One granted lock from its acquisition to its release, in server epoch seconds.

    ``seconds`` is the best estimate within ``seconds_min`` .. ``seconds_max``. ``exact`` means that the runner read the
    lock in its own transaction, so that it exists for certain and ended with that COMMIT. ``waited_seconds`` is how
    long its session queued for it. ``new_object``: made by the statement that locks it, so nobody else can wait for it.
    ``reachable``: others can come to use the relation (the runner knows; a bare trace assumes so). ``kind``: pg_class.relkind.
    """

    pid: int
    oid: int
    relation: str
    mode: str
    first_seen: float
    last_seen: float
    seconds: float
    seconds_min: float
    seconds_max: float
    waited_seconds: float
    application: str
    statement_number: int | None = None
    exact: bool = False
    new_object: bool = False
    reachable: bool = True
    kind: str = ""

    @property
    def blocks_writes(self) -> bool:
        """Whether somebody's ordinary read or write has to wait; nobody writes to a materialized view but REFRESH."""
        return self.mode == ACCESS_EXCLUSIVE or (self.mode in BLOCKS_WRITES and self.kind != "m")

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)


@dataclass(frozen=True)
class LockWait:
    """One session's wait for a lock: ``behind`` are the sessions that held it, or queued before it, at that time."""

    pid: int
    application: str
    oid: int
    relation: str
    mode: str
    since: float
    until: float
    seconds: float
    behind: tuple[int, ...]
    behind_applications: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)


@dataclass(frozen=True)
class TraceQuality:
    """How dense the looks were: a lock shorter than the interval may be missed, unless it was read exactly."""

    samples: int
    seconds: float
    interval_ms_p50: float
    interval_ms_p99: float
    interval_ms_max: float
    gaps_over_5_ms: int
    complete: bool
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)


@dataclass(frozen=True)
class ExactLock:
    """A lock that a runner read in its own transaction: taken after ``not_before`` and kept until ``released``."""

    pid: int
    vxid: str
    oid: int
    relation: str
    mode: str
    not_before: float
    released: float
    statement_number: int | None
    new_object: bool


@dataclass
class _Open:
    """A lock or a wait that the latest look still saw; ``absent_at`` is the last look without it."""

    first: float
    absent_at: float
    waiting_since: float | None = None
    new_object: bool = False


@dataclass(frozen=True)
class _Closed:
    """A sampled lock or wait with the looks around it."""

    key: _Key
    absent_at: float
    first: float
    last: float
    gone_at: float
    waited: float
    new_object: bool = False


@dataclass(frozen=True)
class _Key:
    pid: int
    vxid: str
    oid: int
    mode: str
    granted: bool


class LockTrace:
    """Traces every session of one database between ``start`` and ``stop`` (or as a context manager).

    Locks of all sessions are recorded; ``watch`` and ``applications`` say whose are *ours* when asking for ``holds``.
    ``pause_ms`` lies between two looks; with ``prefer``, the looking process asks for a better priority where it can.
    """

    def __init__(
        self,
        dsn: str,
        *,
        applications: Sequence[str] = ("comporta/",),
        pause_ms: int = 1,
        chunk_seconds: float = 0.5,
        prefer: bool = True,
    ) -> None:
        self._dsn = dsn
        self._applications = tuple(applications)
        self._pause_ms = pause_ms
        self._chunk_seconds = chunk_seconds
        self._prefer = prefer
        self._watched: set[int] = set()
        self._names: dict[int, str] = {}
        self._sessions: dict[int, str] = {}
        self._samples = array("d")
        self._open: dict[_Key, _Open] = {}
        self._closed: list[_Closed] = []
        self._blocked_by: dict[_Key, set[int]] = {}
        self._last_look = 0.0
        self._problem = ""
        self._lock = threading.Lock()
        self._advanced = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None

    # -- running ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Connect, remember every name, and return once the first look has been made."""
        connection = connect(self._dsn, name=TRACE_NAME)
        self._connection = connection
        connection.execute(load("comporta.dryrun", "trace_session.sql"), prepare=False)
        connection.execute(
            "select set_config('comporta.trace_pause_ms', %s, false), set_config('comporta.trace_seconds', %s, false)",
            (str(self._pause_ms), str(self._chunk_seconds)),
        )
        self._remember_names(connection)
        if self._prefer:
            _raise_priority(connection)
        connection.add_notice_handler(self._receive)
        self._thread = threading.Thread(target=self._run, args=(connection,), name=TRACE_NAME, daemon=True)
        self._thread.start()
        self.settle(0.0)
        return self

    def stop(self) -> None:
        """End the loop and close the connection; asking for results stays possible."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        if self._connection is not None and not self._connection.closed:
            with suppress(psycopg.Error):
                self._remember_names(self._connection)
            self._connection.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def watch(self, pid: int) -> None:
        """Count the locks of this backend as ours."""
        self._watched.add(pid)

    def settle(self, moment: float, *, patience_seconds: float = 10.0) -> bool:
        """Wait until a look later than ``moment`` has been told; False when the trace broke or is too slow."""
        with self._advanced:
            return (
                self._advanced.wait_for(
                    lambda: self._last_look > moment or bool(self._problem), timeout=patience_seconds
                )
                and not self._problem
            )

    def _run(self, connection: Connection) -> None:
        query = load("comporta.dryrun", "sample_locks.sql")
        try:
            while not self._stopping.is_set():
                connection.execute(query, prepare=False)
        except psycopg.Error as error:
            with self._advanced:
                self._problem = str(error).strip() or type(error).__name__
                self._advanced.notify_all()

    def _remember_names(self, connection: Connection) -> None:
        rows = connection.execute(load("comporta.dryrun", "relation_names.sql")).fetchall()
        with self._lock:
            for oid, name in rows:
                self._names.setdefault(int(oid), name)

    # -- what the loop tells ---------------------------------------------------------------------------------------

    def _receive(self, diagnostic: errors.Diagnostic) -> None:
        text = diagnostic.message_primary or ""
        if diagnostic.severity_nonlocalized != "INFO" or not text.startswith("{"):
            return
        told = json.loads(text)
        with self._advanced:
            if "micros" in told:
                base = float(told["base"])
                self._samples.extend(base + micro / 1e6 for micro in told["micros"])
                self._last_look = self._samples[-1]
            else:
                self._change(told)
            self._advanced.notify_all()

    def _change(self, told: Mapping[str, Any]) -> None:
        at = float(told["at"])
        before = float(told["before"]) if told["before"] is not None else (self._last_look or at)
        for oid, name in (told.get("names") or {}).items():
            self._names.setdefault(int(oid), name)
        for pid, session in (told.get("sessions") or {}).items():
            self._sessions[int(pid)] = session
        present = set()
        behind = told.get("behind") or {}
        for line in told["locks"].splitlines():
            key, waiting_since = _parse(line)
            present.add(key)
            if key not in self._open:
                self._open[key] = _Open(at, before, waiting_since or None, key.oid not in self._names)
            if not key.granted and str(key.pid) in behind:
                self._blocked_by.setdefault(key, set()).update(behind[str(key.pid)])
        for key in [key for key in self._open if key not in present]:
            self._close(key, last=before, gone_at=at)
        self._last_look = max(self._last_look, at)

    def _close(self, key: _Key, *, last: float, gone_at: float) -> None:
        lock = self._open.pop(key)
        since = lock.waiting_since
        waited = 0.0 if since is None else max(gone_at - since, 0.0)
        first = lock.first if since is None else min(lock.first, since)
        self._closed.append(_Closed(key, lock.absent_at, first, max(last, first), gone_at, waited, lock.new_object))

    # -- results ---------------------------------------------------------------------------------------------------

    def name(self, oid: int) -> str:
        """The first name that the relation was seen under, or its number when it never was visible to others."""
        return self._names.get(oid, f"relation {oid}")

    def is_ours(self, pid: int) -> bool:
        """Whether the backend is watched, by number or by its application name."""
        session = self._sessions.get(pid, "|")
        application = session.partition("|")[2]
        return pid in self._watched or application.startswith(self._applications)

    def application(self, pid: int) -> str:
        """Application name of a backend; for the server's own processes, what kind they are."""
        kind, _, application = self._sessions.get(pid, "|").partition("|")
        return application if kind in ("", "client backend") and application else (kind or "unknown")

    def holds(self, *, ours: bool | None = True, since: float = 0.0) -> tuple[LockHold, ...]:
        """Sampled locks that ended, or still last, after ``since``; ``ours=None`` asks for those of every session."""
        with self._lock:
            closed = self._closed_and_open()
        granted = _join_pieces([lock for lock in closed if lock.key.granted and lock.gone_at >= since])
        waited = _granted_waits(closed)
        holds = [self._hold(lock, waited.get(_grant(lock.key), 0.0)) for lock in granted]
        return tuple(
            sorted(
                (hold for hold in holds if ours is None or self.is_ours(hold.pid) == ours),
                key=lambda hold: hold.first_seen,
            )
        )

    def waits(self, *, since: float = 0.0) -> tuple[LockWait, ...]:
        """Every wait for a relation (or a row's transaction) that was seen, with the sessions in front."""
        with self._lock:
            closed = self._closed_and_open()
            blocked_by = {key: frozenset(pids) for key, pids in self._blocked_by.items()}
        recent = [lock for lock in closed if lock.gone_at >= since]
        on: dict[int, list[_Closed]] = {}
        for lock in recent:
            on.setdefault(lock.key.oid, []).append(lock)
        return tuple(
            self._wait(wait, tuple(sorted(_in_front(wait, on[wait.key.oid]) | blocked_by.get(wait.key, frozenset()))))
            for wait in sorted(recent, key=lambda lock: lock.first)
            if not wait.key.granted
        )

    def refine(self, exact: ExactLock) -> LockHold:
        """Join a lock that the runner read itself with the looks around it: the looks narrow the time of acquisition."""
        key = _Key(exact.pid, exact.vxid, exact.oid, exact.mode, True)
        with self._lock:
            closed = self._closed_and_open()
            sampled = next((lock for lock in closed if lock.key == key), None)
            blind = self._last_blind_look(sampled, exact)
        earliest = max(exact.not_before, blind)
        latest = sampled.first if sampled is not None else exact.released
        latest = min(max(latest, earliest), exact.released)
        waited = _granted_waits(closed).get(key, 0.0)
        return LockHold(
            pid=exact.pid,
            oid=exact.oid,
            relation=exact.relation,
            mode=exact.mode,
            first_seen=earliest,
            last_seen=exact.released,
            # The earliest possible moment: a budget must hold in the worst case.
            seconds=exact.released - earliest,
            seconds_min=exact.released - latest,
            seconds_max=exact.released - earliest,
            waited_seconds=waited,
            application=self.application(exact.pid),
            statement_number=exact.statement_number,
            exact=True,
            new_object=exact.new_object,
        )

    def quality(self, *, since: float = 0.0, until: float = float("inf")) -> TraceQuality:
        """Density of the looks between two moments."""
        with self._lock:
            looks = self._samples[bisect_left(self._samples, since) : bisect_left(self._samples, until)]
            problem = self._problem
        gaps = sorted((later - earlier) * 1000 for earlier, later in pairwise(looks))
        return TraceQuality(
            samples=len(looks),
            seconds=looks[-1] - looks[0] if looks else 0.0,
            interval_ms_p50=_quantile(gaps, 0.50),
            interval_ms_p99=_quantile(gaps, 0.99),
            interval_ms_max=_quantile(gaps, 1.0),
            gaps_over_5_ms=sum(gap > 5 for gap in gaps),
            complete=bool(self._samples) and not problem,
            problem=problem,
        )

    def _last_blind_look(self, sampled: _Closed | None, exact: ExactLock) -> float:
        """The last look that did not see the lock before it was there."""
        if sampled is not None:
            return sampled.absent_at
        # Looks are told every half second: the newest may still be on their way, which only widens the bound.
        index = bisect_left(self._samples, exact.released)
        return self._samples[index - 1] if index else 0.0

    def _closed_and_open(self) -> list[_Closed]:
        now = self._last_look
        still = [
            _Closed(
                key, lock.absent_at, min(lock.first, lock.waiting_since or lock.first), now, now,
                now - lock.waiting_since if lock.waiting_since else 0.0, lock.new_object,
            )
            for key, lock in self._open.items()
        ]  # fmt: skip
        return [*self._closed, *still]

    def _wait(self, wait: _Closed, behind: tuple[int, ...]) -> LockWait:
        return LockWait(
            pid=wait.key.pid,
            application=self.application(wait.key.pid),
            oid=wait.key.oid,
            relation=self.name(wait.key.oid) if wait.key.oid else "a row",
            mode=wait.key.mode,
            since=wait.first,
            until=wait.gone_at,
            seconds=wait.waited,
            behind=behind,
            behind_applications=tuple(self.application(pid) for pid in behind),
        )

    def _hold(self, lock: _Closed, waited: float) -> LockHold:
        shortest = lock.last - lock.first
        longest = lock.gone_at - lock.absent_at
        return LockHold(
            pid=lock.key.pid,
            oid=lock.key.oid,
            relation=self.name(lock.key.oid),
            mode=lock.key.mode,
            first_seen=lock.first,
            last_seen=lock.last,
            seconds=(shortest + longest) / 2,
            seconds_min=shortest,
            seconds_max=longest,
            waited_seconds=waited,
            application=self.application(lock.key.pid),
            new_object=lock.new_object,
        )


def _parse(line: str) -> tuple[_Key, float]:
    pid, vxid, oid, mode, granted, waiting_since = line.split(" ")
    return _Key(int(pid), vxid, int(oid), mode, granted == "t"), float(waiting_since)


def _grant(key: _Key) -> _Key:
    return replace(key, granted=True)


def _granted_waits(closed: Iterable[_Closed]) -> dict[_Key, float]:
    """How long each lock was queued for, by the key under which it was granted."""
    return {_grant(lock.key): lock.waited for lock in closed if not lock.key.granted}


def _join_pieces(granted: list[_Closed]) -> list[_Closed]:
    """Join the pieces of a lock that outlives its transaction: as CONCURRENTLY keeps it, or for the moment of any COMMIT.

    A commit takes the number off the transaction, and lets everybody see its work, a moment before it lets its locks go
    (``ProcArrayEndTransaction`` in PostgreSQL's ``procarray.c``): a look in between finds the same lock under ``5/0``.
    """
    joined: list[_Closed] = []
    latest: dict[tuple[int, int, str], int] = {}
    for lock in sorted(granted, key=lambda lock: lock.first):
        place = (lock.key.pid, lock.key.oid, lock.key.mode)
        index = latest.get(place)
        outlives = lock.key.mode in _SPANS_TRANSACTIONS or lock.key.vxid.endswith("/0")
        if outlives and index is not None and joined[index].gone_at >= lock.first:
            joined[index] = replace(joined[index], last=lock.last, gone_at=lock.gone_at)
            continue
        latest[place] = len(joined)
        joined.append(lock)
    return joined


def _in_front(wait: _Closed, locks: Iterable[_Closed]) -> frozenset[int]:
    """Sessions that held a conflicting lock on the relation, or queued for one earlier, while ``wait`` lasted."""
    return frozenset(
        lock.key.pid
        for lock in locks
        if wait.key.oid
        and lock.key.oid == wait.key.oid
        and lock.key.pid != wait.key.pid
        and lock.first <= wait.gone_at
        and lock.gone_at > wait.first
        and (lock.key.granted or lock.first <= wait.first)
        and conflicts(lock.key.mode, wait.key.mode)
    )


_WEAKEST_CONFLICT: Final = {
    "AccessShareLock": {"AccessExclusiveLock"},
    "RowShareLock": {"ExclusiveLock", "AccessExclusiveLock"},
    "RowExclusiveLock": {"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"},
    "ShareUpdateExclusiveLock": {
        "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
    },
    "ShareLock": {
        "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
    },
    "ShareRowExclusiveLock": {
        "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock",
        "AccessExclusiveLock",
    },
    "ExclusiveLock": {
        "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock",
        "ExclusiveLock", "AccessExclusiveLock",
    },
}  # fmt: skip


def conflicts(one: str, other: str) -> bool:
    """Whether two relation lock modes exclude each other (the table in the PostgreSQL manual, section 13.3.1)."""
    if ACCESS_EXCLUSIVE in (one, other):
        return True
    return other in _WEAKEST_CONFLICT.get(one, set())


def _quantile(ordered: Sequence[float], share: float) -> float:
    if not ordered:
        return 0.0
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _raise_priority(connection: Connection) -> None:
    """Ask the operating system to prefer the looking process where it is ours to ask; a refusal is no problem."""
    if conninfo_to_dict(connection.info.dsn).get("host", "") not in ("", "127.0.0.1", "::1", "localhost"):
        return
    pid = connection.info.backend_pid
    with suppress(OSError, ValueError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if command.startswith(b"postgres") and connection.info.dbname.encode() in command:
            os.setpriority(os.PRIO_PROCESS, pid, -10)
