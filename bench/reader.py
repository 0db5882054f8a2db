"""Does a long reader make everybody wait? Each change is applied while a transaction keeps the table open for 6 s at a time.

    python bench/reader.py --rows 20000 [--hold 6] [--plain] [--target DSN --shadow DSN]

A reader opens a transaction on ``catalogue.geometrias``, holds it for ``--hold`` seconds, and at once opens the next, while
another session asks a plain SELECT every 10 ms. Prints JSON: for each change its seconds and the longest of those SELECTs.
``--plain`` adds what an ALTER TABLE without a lock_timeout does in the same place, in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from online import own_servers

from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.release.model import load_release
from comporta.settings import project_root
from comporta.shadow.clone import Shadow

EVERY_S = 0.01


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--hold", type=float, default=6.0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--target")
    parser.add_argument("--shadow")
    options = parser.parse_args()
    release = load_release(project_root() / "config" / "release.yaml", project_root() / "sql")
    result: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        target, server = (options.target, options.shadow) if options.target else own_servers(stack, options.rows)
        shadow = Shadow(target, server)
        shadow.copy_target(lambda text: print(text, file=sys.stderr))
        dsn = shadow.reset()
        with connect(dsn, name="comporta/bench") as conn:
            for script in release.support:
                run_script(conn, script)
        for change in release.changes:
            print(f"apply {change.name} behind a reader", file=sys.stderr)
            result[change.name] = _beside_a_reader(dsn, partial(_apply, dsn, change.apply), options.hold)
        if options.plain:
            result["ALTER TABLE without lock_timeout"] = _beside_a_reader(dsn, lambda: _naive(dsn), options.hold)
    json.dump({"rows": options.rows, "hold_s": options.hold, "changes": result}, sys.stdout, indent=1)


def _apply(dsn: str, script: Script) -> None:
    with connect(dsn, name=f"comporta/{script.path.stem}") as conn:
        run_script(conn, script)


def _naive(dsn: str) -> None:
    with connect(dsn, name="naive") as conn:
        conn.execute("alter table catalogue.layers add column if not exists note text")


def _beside_a_reader(dsn: str, action: Callable[[], None], hold_s: float) -> dict[str, float]:
    holding, done, waits = threading.Event(), threading.Event(), [0.0]
    threads = [
        threading.Thread(target=_hold, args=(dsn, hold_s, holding, done)),
        threading.Thread(target=_ask, args=(dsn, done, waits)),
    ]
    for thread in threads:
        thread.start()
    holding.wait(30)
    started = time.monotonic()
    try:
        action()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    return {
        "seconds": round(time.monotonic() - started, 2),
        "longest_select_ms": round(max(waits) * 1000, 1),
        "selects": len(waits),
    }


def _hold(dsn: str, hold_s: float, holding: threading.Event, done: threading.Event) -> None:
    with connect(dsn, name="long reader") as conn:
        while not done.is_set():
            with conn.transaction():
                conn.execute(
                    "select count(*) from catalogue.geometrias g join catalogue.layers l on l.code = g.layer where g.id < 100"
                )
                holding.set()
                done.wait(hold_s)
            time.sleep(0.2)  # people pause between their transactions


def _ask(dsn: str, done: threading.Event, waits: list[float]) -> None:
    with connect(dsn, name="plain select") as conn:
        while not done.is_set():
            started = time.perf_counter()
            conn.execute(
                "select g.name, l.title from catalogue.geometrias g join catalogue.layers l on l.code = g.layer where g.id = 4711"
            )
            waits.append(time.perf_counter() - started)
            time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
