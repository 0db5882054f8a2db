"""The catalogue's own queries, timed and explained before and after each change."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from comporta.postgres.connection import Connection
from comporta.postgres.execution import execute

RUNS = 7
ENOUGH_RUNS = 3
ENOUGH_SECONDS = 1.5


@dataclass(frozen=True)
class Probe:
    """One query at one moment: seconds of each run, rows returned, planner's view. ``error`` when it did not run."""

    name: str
    sql: str
    seconds: tuple[float, ...]
    rows: int
    plan: tuple[str, ...]
    plan_digest: str
    cost: float
    buffers: int
    error: str | None = None

    @property
    def median_ms(self) -> float:
        """Median of the runs, milliseconds."""
        return statistics.median(self.seconds) * 1000 if self.seconds else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "median_ms": self.median_ms}


def probe_queries(conn: Connection, queries: Mapping[str, str], runs: int = RUNS) -> list[Probe]:
    """Run each query ``runs`` times after one that warms the cache, read-only, and keep the plan of one more.

    A slow query stops at ``ENOUGH_RUNS`` once it has had ``ENOUGH_SECONDS``: its median needs no more.
    """
    with conn.transaction():
        conn.execute("set transaction read only")
        conn.execute("set local statement_timeout = '60s'")
        return [_probe(conn, name, sql, runs) for name, sql in queries.items()]


def _probe(conn: Connection, name: str, sql: str, runs: int) -> Probe:
    try:
        with conn.transaction():
            rows = len(execute(conn, sql).fetchall())
            seconds = _times(conn, sql, runs)
            explained = execute(conn, f"explain (analyze, buffers, costs, format json) {sql}").fetchone()
    except psycopg.Error as error:
        return Probe(name, sql, (), 0, (), "", 0.0, 0, error=f"{error.sqlstate}: {error.diag.message_primary or error}")
    assert explained is not None
    root = explained[0][0]["Plan"]
    lines = tuple(_lines(root))
    return Probe(
        name=name,
        sql=sql,
        seconds=seconds,
        rows=rows,
        plan=lines,
        plan_digest=hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:12],
        cost=float(root["Total Cost"]),
        buffers=int(root.get("Shared Hit Blocks", 0)) + int(root.get("Shared Read Blocks", 0)),
    )


def _times(conn: Connection, sql: str, runs: int) -> tuple[float, ...]:
    seconds: list[float] = []
    while len(seconds) < runs and (len(seconds) < ENOUGH_RUNS or sum(seconds) < ENOUGH_SECONDS):
        seconds.append(_timed(conn, sql))
    return tuple(seconds)


def _timed(conn: Connection, sql: str) -> float:
    started = time.perf_counter()
    execute(conn, sql).fetchall()
    return time.perf_counter() - started


def _lines(node: Mapping[str, Any], depth: int = 0) -> list[str]:
    """The plan as indented node names, without numbers: two plans of the same shape compare equal.

    Children that an Append runs alike (one for each partition) are folded into one line with their count.
    """
    name = str(node["Node Type"])
    for key in ("Relation Name", "Index Name", "Function Name", "CTE Name"):
        if key in node:
            name += f" {node[key]}"
    lines = ["  " * depth + name]
    children = node.get("Plans", [])
    if node["Node Type"] in ("Append", "Merge Append") and len(children) > 3:
        kinds = sorted({str(child["Node Type"]) for child in children})
        return [*lines, "  " * (depth + 1) + f"{len(children)} parts: {', '.join(kinds)}"]
    for child in children:
        lines.extend(_lines(child, depth + 1))
    return lines
