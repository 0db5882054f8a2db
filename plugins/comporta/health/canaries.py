"""Canaries: the catalogue's own queries, run as applications run them, and only to read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from comporta.postgres.connection import Connection

Clock = Callable[[], float]

_TIMED_OUT = "57014"
_GONE = ("08", "57P")


@dataclass(frozen=True)
class Run:
    """One canary, once: milliseconds, and why it failed. A run into its time-out took at least that long."""

    name: str
    ms: float
    error: str | None = None
    timed_out: bool = False

    @property
    def timed(self) -> bool:
        """True when ``ms`` says how long applications wait."""
        return self.error is None or self.timed_out


def run_canaries(
    conn: Connection,
    queries: Mapping[str, str],
    *,
    role: str | None,
    until: float = math.inf,
    clock: Clock = time.perf_counter,
) -> Iterator[Run]:
    """Run each query once, as ``role``, in a transaction that only reads; none is begun after ``until`` on ``clock``.

    A query that fails is a run with an error. psycopg.Error passes through when the server is gone or the role cannot be
    taken: that says nothing about the queries.
    """
    for name, query in queries.items():
        if clock() >= until:
            return
        yield _run(conn, name, query, role, clock)


def _run(conn: Connection, name: str, query: str, role: str | None, clock: Clock) -> Run:
    started = clock()
    as_role = False
    try:
        with conn.transaction():
            conn.execute("set transaction read only")
            if role is not None:
                conn.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            as_role = True
            started = clock()
            # Prepared: the server takes one statement, whatever the text holds.
            conn.execute(query.encode(), prepare=True).fetchall()
            return Run(name, (clock() - started) * 1000)
    except psycopg.Error as error:
        if not as_role or conn.closed or (error.sqlstate or _GONE[0]).startswith(_GONE):
            raise
        said = f"{error.sqlstate}: {error.diag.message_primary or error}"
        return Run(name, (clock() - started) * 1000, said, error.sqlstate == _TIMED_OUT)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile, None of nothing: a value that was measured, not one between two."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def p95(runs: Sequence[Run]) -> float | None:
    """Milliseconds that 95 of 100 runs stayed under, of those that tell how long applications wait."""
    return percentile([run.ms for run in runs if run.timed], 0.95)


def error_share(runs: Sequence[Run]) -> float | None:
    """The share of runs that failed, None when there was none."""
    return sum(run.error is not None for run in runs) / len(runs) if runs else None
