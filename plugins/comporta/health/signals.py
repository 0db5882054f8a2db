"""The signals: each is read from the target by one query, or computed from the canaries, and held against its limit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import psycopg

from comporta.health.baseline import Baseline
from comporta.health.canaries import Run, error_share, p95
from comporta.health.sample import Sample, Verdict, judged, no_data
from comporta.postgres.connection import Connection
from comporta.postgres.queries import load
from comporta.release.health import (
    ConnectionsPlan,
    DeadTuplesPlan,
    DiskPlan,
    ErrorsPlan,
    HealthPlan,
    LatencyPlan,
    LockWaitsPlan,
    ReplicationPlan,
    SqlPlan,
)

_CONTROL_FILE = Path("global/pg_control")


@dataclass(frozen=True)
class Scope:
    """What the signals are read with: the target's connection, the release's plan and tables, and the last baseline."""

    conn: Connection
    plan: HealthPlan
    tables: Sequence[str]
    baseline: Baseline | None

    def value_then(self, signal: str) -> float | None:
        """The value of a signal in the baseline."""
        return self.baseline.signals.get(signal) if self.baseline else None


def read_signals(scope: Scope) -> list[Sample]:
    """A sample of each watched signal that the server tells by itself; what it does not tell is no data, with its words.

    OperationalError passes through when the connection is gone.
    """
    found = []
    for name in scope.plan.signals.names:
        if name in ("errors", "latency") or scope.plan.signals[name].not_watched is not None:
            continue
        try:
            # The session's default is not enough: a query can change it.
            with scope.conn.transaction():
                scope.conn.execute("set transaction read only")
                found.append(_READ.get(name, _sql)(scope, name))
        except psycopg.Error as error:
            if scope.conn.closed:
                raise
            found.append(no_data(name, f"could not be read: {error.diag.message_primary or error}"))
    return found


def judge_canaries(plan: HealthPlan, runs: Sequence[Run], baseline: Baseline | None, without: str) -> list[Sample]:
    """The samples of errors and latency; ``without`` says why there is no run when there is none."""
    found = []
    if plan.signals.errors.not_watched is None:
        found.append(_errors(plan.signals.errors, runs, baseline) if runs else no_data("errors", without))
    if plan.signals.latency.not_watched is None:
        timed = [run for run in runs if run.timed]
        why = "no canary was answered" if runs else without
        found.append(_latency(plan.signals.latency, timed, baseline) if timed else no_data("latency", why))
    return found


def _errors(limit: ErrorsPlan, runs: Sequence[Run], baseline: Baseline | None) -> Sample:
    failed = {run.name: run.error for run in runs if run.error is not None}
    then = baseline.signals.get("errors") if baseline else None
    told = f" ({'; '.join(f'{name}: {error}' for name, error in failed.items())})" if failed else ""
    return judged(
        "errors", limit, error_share(runs), then, f"share of failing canaries{told}", detail={"failed": failed}
    )


def _latency(limit: LatencyPlan, timed: Sequence[Run], baseline: Baseline | None) -> Sample:
    bounds = {run.name: limit.bound(baseline.p95_ms(run.name) if baseline else None) for run in timed}
    detail = {"ms": {run.name: round(run.ms, 3) for run in timed}}
    unknown = [name for name, bound in bounds.items() if bound is None]
    if baseline is not None and unknown:
        return no_data("latency", f"the baseline has no time of {', '.join(unknown)}: take another", detail=detail)
    slow = [run for run in timed if run.timed_out or run.ms > (bounds[run.name] or math.inf)]
    then = baseline.signals.get("latency") if baseline else None
    more: dict[str, Any] = {"runs": len(timed), "slow": len(slow), "detail": detail}
    return judged("latency", limit, p95(timed), then, "p95 of canaries, ms", **more)


def _lock_waits(scope: Scope, name: str) -> Sample:
    limit = scope.plan.signals.lock_waits
    assert isinstance(limit, LockWaitsPlan)
    waiting, longest_s = _row(scope.conn, "lock_waits.sql", {"longer_than_ms": limit.longer_than_ms})
    said = f"sessions that wait for a lock longer than {limit.longer_than_ms} ms"
    return judged(name, limit, waiting, scope.value_then(name), said, detail={"longest_s": longest_s})


def _replication_lag(scope: Scope, name: str) -> Sample:
    limit: ReplicationPlan = scope.plan.signals.replication_lag
    rows = scope.conn.execute(load(__package__, "replication_lag.sql").encode()).fetchall()
    if any(hidden for *_, hidden in rows):
        return no_data(name, "the sign-in may not see replication: grant it pg_monitor")
    behind = [_Behind(who, lag, seconds) for who, lag, seconds, _ in rows if who is not None]
    missing = [who for who in limit.expected if who not in {each.who for each in behind}]
    late = [each for each in behind if each.more_than(limit)]
    detail = {"behind": [vars(each) for each in behind]}
    value = max((each.bytes for each in behind if each.bytes is not None), default=0.0)
    more: dict[str, Any] = {"value": value, "bound": float(limit.bytes_at_most), "detail": detail}
    if missing or late:
        told = [*(f"{who} is not there" for who in missing), *map(str, late)]
        return Sample(breaker=name, verdict="bad", why="; ".join(told), **more)
    if unknown := [each.who for each in behind if each.bytes is None]:
        return no_data(name, f"not known how far behind: {', '.join(unknown)}", detail=detail)
    told = list(map(str, behind)) or ["not applicable: there is no standby and no slot, and none is expected"]
    return Sample(breaker=name, verdict="ok", why="; ".join(told), **more)


@dataclass(frozen=True)
class _Behind:
    """A standby or a slot, and how far it is behind; ``bytes`` is None when the server does not say."""

    who: str
    bytes: float | None
    seconds: float | None

    def more_than(self, limit: ReplicationPlan) -> bool:
        return (self.bytes or 0.0) > limit.bytes_at_most or (self.seconds or 0.0) > limit.seconds_at_most

    def __str__(self) -> str:
        seconds = "" if self.seconds is None else f", {self.seconds:.1f} s"
        return f"{self.who} is {(self.bytes or 0.0) / 2**20:.1f} MiB{seconds} behind"


def _disk(scope: Scope, name: str) -> Sample:
    limit: DiskPlan = scope.plan.signals.disk
    if limit.query is not None:
        rows = scope.conn.execute(limit.query.encode(), prepare=True).fetchall()
        if len(rows) != 1 or len(rows[0]) != 2 or not all(_is_number(cell) for cell in rows[0]):
            return no_data(name, "its query did not give one row of two numbers: free bytes, all bytes")
        free, whole = float(rows[0][0]), float(rows[0][1])
        where = "by the release's query"
    else:
        directory, system_identifier = _row(scope.conn, "data_directory.sql", {})
        seen = free_space(directory, system_identifier)
        if isinstance(seen, str):
            return no_data(name, f"{seen}; give health.signals.disk a query, or say why it is not watched")
        free, whole = seen
        where = "in the data directory"
    if whole <= 0 or not 0 <= free <= whole:
        return no_data(name, f"{free:.0f} bytes free of {whole:.0f}: that cannot be")
    share, needed = free / whole, max(float(limit.free_bytes_at_least), limit.free_share_at_least * whole)
    said = f"{free / 2**30:.1f} GiB free {where}, {share:.0%}; at least {needed / 2**30:.1f} GiB"
    verdict: Verdict = "bad" if free < needed else "ok"
    detail = {"free": free, "all": whole}
    return Sample(breaker=name, verdict=verdict, why=said, value=free, bound=needed, detail=detail)


def free_space(directory: str | None, system_identifier: int) -> tuple[float, float] | str:
    """Free and all bytes where the server keeps its files, the scarcer of data and WAL; in words, why it is not known.

    A folder of that name proves nothing: the control file in it must be that of this server.
    """
    if directory is None:
        return "the sign-in may not know the data directory: grant it pg_monitor"
    folder = Path(directory)
    try:
        found = int.from_bytes((folder / _CONTROL_FILE).read_bytes()[:8], "little")
        if found != system_identifier:
            return f"{directory} on this machine belongs to another server"
        spaces = [os.statvfs(place) for place in (folder, folder / "pg_wal")]
    except OSError:
        return "the target's data directory cannot be seen from here"
    scarcest = min(spaces, key=lambda space: space.f_bavail * space.f_frsize)
    return float(scarcest.f_bavail * scarcest.f_frsize), float(scarcest.f_blocks * scarcest.f_frsize)


def _dead_tuples(scope: Scope, name: str) -> Sample:
    limit: DeadTuplesPlan = scope.plan.signals.dead_tuples
    if not scope.tables:
        return no_data(name, "the release names no table (tables:)")
    stored = _stored_in(scope.conn, scope.tables)
    values = {"tables": list(stored), "min_rows": limit.min_rows}
    rows = scope.conn.execute(load(__package__, "dead_tuples.sql").encode(), values).fetchall()
    rows = [(stored[name], share) for name, share in rows]
    if missing := [table for table, share in rows if share is None]:
        why = "there is no such table, or its rows were not counted since the statistics were reset (ANALYZE does)"
        return no_data(name, f"{', '.join(missing)}: {why}")
    shares = {table: float(share) for table, share in rows}
    worst = max(shares, key=lambda table: shares[table])
    return judged(
        name, limit, shares[worst], scope.value_then(name), f"share of dead rows in {worst}", detail={"shares": shares}
    )


def _stored_in(conn: Connection, tables: Sequence[str]) -> dict[str, str]:
    """The relations that hold the rows of ``tables`` now, each with the table's own name: a change may have put a view there."""
    if _row(conn, "stored_in_known.sql", {}) != (True,):
        return {name: name for name in tables}
    found: dict[str, str] = dict(
        conn.execute(load(__package__, "stored_in.sql").encode(), {"tables": [*tables]}).fetchall()
    )
    return found | {name: name for name in tables if name not in found.values()}


def _connections(scope: Scope, name: str) -> Sample:
    limit: ConnectionsPlan = scope.plan.signals.connections
    used, most = _row(scope.conn, "connections.sql", {})
    said = f"share of the {most} connections in use"
    return judged(name, limit, used / most, scope.value_then(name), said, detail={"used": used, "of": most})


def _sql(scope: Scope, name: str) -> Sample:
    limit: SqlPlan = scope.plan.signals.sql[name]
    rows = scope.conn.execute(limit.query.encode(), prepare=True).fetchall()
    if len(rows) != 1 or len(rows[0]) != 1 or not _is_number(rows[0][0]):
        return no_data(name, f"its query did not give one number but {_briefly(rows)}")
    return judged(name, limit, float(rows[0][0]), scope.value_then(name), name)


def _is_number(cell: object) -> bool:
    """Decimal is no Real to Python; a truth value is no number to us."""
    return isinstance(cell, Real | Decimal) and not isinstance(cell, bool)


def _briefly(rows: Sequence[Sequence[object]]) -> str:
    if len(rows) != 1:
        return f"{len(rows)} rows"
    return (
        "null"
        if rows[0][:1] == (None,) and len(rows[0]) == 1
        else f"a row of {len(rows[0])} column(s), {type(rows[0][0]).__name__ if rows[0] else ''}"
    )


def _row(conn: Connection, query: str, values: Mapping[str, Any]) -> tuple[Any, ...]:
    row = conn.execute(load(__package__, query).encode(), values).fetchone()
    assert row is not None, "an aggregate has one row"
    return row


_READ: Mapping[str, Callable[[Scope, str], Sample]] = {
    "lock_waits": _lock_waits,
    "replication_lag": _replication_lag,
    "disk": _disk,
    "dead_tuples": _dead_tuples,
    "connections": _connections,
}
