"""What does proving cost? Milliseconds of a fingerprint, rows a second of a checksum, beside a plain scan, in one run.

Usage: python bench/proof.py DSN [--rows 1000000] [--rounds 5] > proof.json

Copies catalogue.geometrias of the database DSN, over and over up to the given number of rows, into an unlogged table of a
schema of its own, and drops it again. One core: parallel query is switched off for the checksum and the scan alike.
Checksum, scan and the hash of each row as text take turns in every round. Rows per CPU second, and the ratios, count the
backend's own time: other work on the machine changes it less than elapsed time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from comporta.proof.checksum import checksum_tables
from comporta.proof.fingerprint import second_opinion, take

TABLE = "proof_bench.geometrias"
_FILL = """
create schema proof_bench;
create unlogged table proof_bench.geometrias (like catalogue.geometrias);
insert into proof_bench.geometrias
select (n - 1) * 100000000 + g.id, g.layer, g.name, g.geom, g.properties, g.data_referencia, g.restricted, g.created_at,
       g.updated_at
from generate_series(1, 1 + {rows} / (select greatest(1, count(*)) from catalogue.geometrias)) n
cross join catalogue.geometrias g
limit {rows};
"""


@dataclass(frozen=True)
class Cost:
    """What one work took, over all rounds: elapsed, and the median of the backend's own CPU if it can be read."""

    ms: dict[str, float]
    cpu_seconds: float | None


def main() -> None:
    """Run all measurements and write one JSON object to standard output."""
    arguments = _arguments()
    with psycopg.connect(arguments.dsn, autocommit=True) as conn:
        conn.execute("set max_parallel_workers_per_gather = 0")
        result = {
            "server": conn.execute("select current_setting('server_version')").fetchone()[0],  # type: ignore[index]
            "rounds": arguments.rounds,
            "fingerprint": _fingerprint(conn, arguments),
            "checksum": _checksum(conn, arguments),
        }
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _fingerprint(conn: psycopg.Connection[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    facts = sum(map(len, take(conn).facts.values()))
    ours = _milliseconds(lambda: take(conn).digest, arguments.rounds)
    dump = _milliseconds(lambda: second_opinion(arguments.dsn), arguments.rounds)
    return {
        "facts": facts,
        "ms": ours,
        "pg_dump_ms": dump,
        "ratio_to_pg_dump": round(ours["median"] / dump["median"], 2),
    }


def _checksum(conn: psycopg.Connection[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        conn.execute(_FILL.format(rows=arguments.rows).encode())
        conn.execute("vacuum analyze proof_bench.geometrias")
        width = conn.execute("select pg_table_size('proof_bench.geometrias')").fetchone() or (0,)
        costs = _in_turn(
            conn,
            {
                "count": lambda: conn.execute("select count(*) from proof_bench.geometrias"),
                "row_as_text": lambda: conn.execute(
                    "select sum(hashtextextended(t::text, 0)) from proof_bench.geometrias t"
                ),
                "checksum": lambda: checksum_tables(conn, [TABLE]),
            },
            arguments.rounds,
        )
    finally:
        conn.execute("drop schema if exists proof_bench cascade")
    ours = costs["checksum"]
    return {
        "rows": arguments.rows,
        "bytes_a_row": round(width[0] / max(1, arguments.rows)),
        "ms": {name: cost.ms for name, cost in costs.items()},
        "rows_per_second": {name: round(arguments.rows / cost.ms["median"] * 1000) for name, cost in costs.items()},
        "cpu_seconds": {name: cost.cpu_seconds for name, cost in costs.items()},
        "rows_per_cpu_second": round(arguments.rows / ours.cpu_seconds) if ours.cpu_seconds else None,
        "ratio_to_count": _ratio(ours, costs["count"]),
        "ratio_to_row_as_text": _ratio(ours, costs["row_as_text"]),
    }


def _in_turn(conn: psycopg.Connection[Any], works: dict[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """Cost of each work, taken in turn within each round, so that whatever else the machine does falls on all alike."""
    taken: dict[str, list[tuple[float, float | None]]] = {name: [] for name in works}
    for warm in [False, *[True] * rounds]:
        for name, work in works.items():
            start, used = time.perf_counter(), _backend_cpu_seconds(conn)
            work()
            spent = None if used is None else (_backend_cpu_seconds(conn) or used) - used
            if warm:
                taken[name].append(((time.perf_counter() - start) * 1000, spent))
    return {name: _cost(each) for name, each in taken.items()}


def _cost(taken: list[tuple[float, float | None]]) -> Cost:
    spent = [cpu for _, cpu in taken if cpu is not None]
    return Cost(_spread([ms for ms, _ in taken]), round(statistics.median(spent), 3) if spent else None)


def _ratio(one: Cost, other: Cost) -> float:
    """CPU by CPU where the server's clock can be read, else elapsed by elapsed."""
    if one.cpu_seconds and other.cpu_seconds:
        return round(one.cpu_seconds / other.cpu_seconds, 2)
    return round(one.ms["median"] / other.ms["median"], 2)


def _backend_cpu_seconds(conn: psycopg.Connection[Any]) -> float | None:
    """CPU used so far by our backend, from /proc; None when the server is elsewhere."""
    try:
        fields = Path(f"/proc/{conn.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _milliseconds(work: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median, best and worst of several rounds after one that warms the caches."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1000)
    return _spread(taken)


def _spread(taken: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(taken), 1), "min": round(min(taken), 1), "max": round(max(taken), 1)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dsn", help="connection string of a throwaway database with the demo catalogue")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
