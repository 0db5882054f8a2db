"""What does each change buy? The catalogue's own work before and after the whole release, on one clone, in one run.

    python bench/benefits.py --rows 1000000 [--target DSN --shadow DSN]

Time window with a box (as a reader and as an editor), search by name, aggregate over cold history, look-up by id, and the
size of cold data. Prints JSON: milliseconds before and after each change, and the ratio before / after of the whole.
Above 1 is a gain; a loss is printed just the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any

from online import own_servers

from comporta.postgres.connection import Connection, connect
from comporta.postgres.execution import execute, run_script
from comporta.release.model import load_release
from comporta.settings import project_root
from comporta.shadow.clone import Shadow

RUNS = 9
WINDOW = (
    "select count(*), max(name) from catalogue.geometrias where data_referencia >= '2024-01-01'"
    " and data_referencia < '2024-07-01' and geom && public.st_makeenvelope(-60, -30, -40, -10, 4326)"
)
COLD = (
    "select layer, extract(year from data_referencia), count(*) from catalogue.geometrias where data_referencia < '2020-01-01'"
    " group by 1, 2"
)
WORK = {
    "window and box, reader": ("gis_reader", WINDOW),
    "window and box, editor": ("gis_editor", WINDOW),
    "rpc_search, reader": ("gis_reader", "select * from catalogue.rpc_search('rio verde')"),
    "cold aggregate, same query": ("gis_editor", COLD),
    "by id": ("gis_editor", "select id, name from catalogue.geometrias where id = 4711"),
}
# What the change offers for the same question, where it offers something.
AFTER = {
    "cold aggregate, rpc_geometrias_resumo": (
        "gis_editor",
        "select * from catalogue.rpc_geometrias_resumo('2015-01-01', '2020-01-01')",
    )
}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--target")
    parser.add_argument("--shadow")
    options = parser.parse_args()
    release = load_release(project_root() / "config" / "release.yaml", project_root() / "sql")
    with ExitStack() as stack:
        target, server = (options.target, options.shadow) if options.target else own_servers(stack, options.rows)
        shadow = Shadow(target, server)
        if not shadow.has_golden():
            shadow.copy_target(lambda text: print(text, file=sys.stderr))
        dsn = shadow.reset()
        with connect(dsn, name="comporta/bench") as conn:
            for script in release.support:
                run_script(conn, script)
            steps = {"before": _work(conn, WORK), "sizes before": _sizes(conn)}
            for change in release.changes:
                print(f"apply {change.name}", file=sys.stderr)
                with connect(dsn, name=f"comporta/{change.name}") as runner:
                    run_script(runner, change.apply)
                conn.execute("analyze")
                steps[change.name] = _work(conn, WORK)
                steps[f"sizes {change.name}"] = _sizes(conn)
            offered = _work(conn, AFTER)
    last = steps[release.changes[-1].name]
    ratios = {name: round(steps["before"][name] / last[name], 2) for name in WORK if last[name]}
    ratios |= {name: round(steps["before"]["cold aggregate, same query"] / ms, 2) for name, ms in offered.items() if ms}
    json.dump(
        {"rows": options.rows, "ms": steps, "offered_ms": offered, "before_over_after": ratios}, sys.stdout, indent=1
    )


def _work(conn: Connection, work: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Median milliseconds of each query in its role, of ``RUNS`` after one that warms the cache."""
    return {name: round(_median_ms(conn, role, query), 3) for name, (role, query) in work.items()}


def _median_ms(conn: Connection, role: str, query: str) -> float:
    with conn.transaction():
        conn.execute(f"set local role {role}")
        seconds = []
        for _ in range(RUNS + 1):
            started = time.perf_counter()
            execute(conn, query).fetchall()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) * 1000


def _sizes(conn: Connection) -> dict[str, int]:
    """Bytes with indexes and TOAST of every table of the catalogue and of the changes, biggest ten."""
    rows = conn.execute(
        "select n.nspname || '.' || c.relname, pg_total_relation_size(c.oid)"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.relkind in ('r', 'm') and (n.nspname = 'catalogue' or n.nspname like 'comporta\\_%') order by 2 desc limit 40"
    ).fetchall()
    return dict(rows)


if __name__ == "__main__":
    main()
