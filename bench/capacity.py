"""Is STAGE 4 right about the rung that it has not seen? Several ladders on a demo catalogue, ours beside naive rules, in one run.

    python bench/capacity.py --rows 300000 [--ladders 5] [--rounds 2] [--seconds 4] [--keep FOLDER]

Makes private clusters, loads the demo catalogue, brings one database to each size and state (before the release and after it), and
climbs the whole ladder on copies of them, again and again. Each ladder is fitted without its highest clients, and without its
largest size, and the prediction is compared with what was measured there; beside it stand the last rung and the line through the
last two. Prints JSON: the median error of each over the ladders, for throughput and p95. ``--keep`` leaves the rungs in a folder,
and goes on with those that are there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from online import own_servers
from psycopg import sql

from comporta.capacity.climber import Climber
from comporta.capacity.measures.clone import make_steady
from comporta.capacity.model import HeldOut, RungResult
from comporta.capacity.models.trial import tried_performance
from comporta.capacity.runner import CapacityRun, open_capacity
from comporta.demo.use import record_use
from comporta.local.databases import prepare_control
from comporta.postgres.connection import with_database
from comporta.settings import Settings, project_root
from comporta.shadow.clone import Shadow

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)  # the folder's name is the same when a bench goes on


def main() -> None:
    """Run and print."""
    options = _options()
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comporta-bench-")))
        target, shadow = own_servers(stack, options.rows)
        record_use(target)
        control = with_database(target, "comporta_bench")
        prepare_control(control, project_root())
        settings = Settings(
            home=project_root(), target_dsn=target, shadow_dsn=shadow, control_dsn=control, archives=folder
        )
        ladders = [stack.enter_context(_ladder(settings, number, options)) for number in range(1, options.ladders + 1)]
        for ladder in ladders:
            ladder.prepare()
        _climb_all(ladders)
        json.dump(_result(ladders, options), sys.stdout, indent=1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--ladders", type=int, default=5)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--keep", type=Path)
    return parser.parse_args()


def _ladder(settings: Settings, number: int, options: argparse.Namespace) -> Any:
    return open_capacity(
        settings,
        run_id=f"ladder-{number}",
        started=BEGAN,
        actor="bench",
        say=_say,
        record=False,
        ladder={
            "each_change_clients": (),
            **({"rounds": options.rounds} if options.rounds else {}),
            **({"seconds": options.seconds} if options.seconds else {}),
        },
    )


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _climb_all(ladders: list[CapacityRun]) -> None:
    """Every ladder at a size and state before the next: what brings a database there is done once."""
    first = ladders[0]
    shadow = Shadow(first.target_dsn, first.shadow_dsn)
    for size in first.ladder.sizes:
        if not any(ladder.climb.missing(state, size) for ladder in ladders for state in first.climb.states):
            continue
        climber = first.climber(shadow, size)
        dsn = climber.grown(size)
        for state in first.climb.states:
            climber.apply(dsn, state)
            if not any(ladder.climb.missing(state, size) for ladder in ladders):
                continue
            make_steady(dsn)
            held = _set_aside(shadow)
            for ladder in ladders:
                if ladder.climb.missing(state, size):
                    own = ladder.climber(shadow, size)
                    _climb(own, state, size, shadow.reset(held, own.owner))
            dsn = shadow.reset(held, climber.owner)


def _climb(climber: Climber, state: str, size: float, dsn: str) -> None:
    make_steady(dsn)
    ready = climber.prime(dsn)
    while missing := climber.climb.missing(state, size):
        climber.measure(ready, missing[0])


def _set_aside(shadow: Shadow) -> str:
    """The clone as it is now, under a name to copy it from."""
    name = f"{shadow.database}_bench"
    with shadow.maintenance() as conn:
        conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        conn.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", (shadow.database,)
        )
        conn.execute(
            sql.SQL("alter database {} rename to {}").format(sql.Identifier(shadow.database), sql.Identifier(name))
        )
    return name


def _result(ladders: list[CapacityRun], options: argparse.Namespace) -> dict[str, Any]:
    held: dict[str, list[dict[str, float]]] = defaultdict(list)
    rungs: list[RungResult] = []
    for ladder in ladders:
        results = ladder.climb.results()
        rungs += results
        for state in (ladder.climb.states[0], ladder.climb.states[-1]):
            for report in tried_performance(state, [each for each in results if each.state == state])[1]:
                for direction in ("client", "size"):
                    tests = [test for test in report.held_out if test.what.startswith(f"next {direction}")]
                    if tests:
                        held[f"{report.subject}, next {direction} rung"].append(_of_one_ladder(tests))
    return {
        "rows": options.rows,
        "ladders": len(ladders),
        "rungs": len(rungs),
        "held_out": {name: _over_ladders(tests) for name, tests in held.items()},
        "throughput_per_s": _medians(rungs, lambda rung: rung.throughput_per_s),
        "p95_ms": _medians(rungs, lambda rung: rung.latency.p95_ms),
    }


def _of_one_ladder(tests: list[HeldOut]) -> dict[str, float]:
    """Median relative errors over the rungs held out of one ladder: ours, and those of the naive rules."""
    rules = {rule: statistics.median(test.naive_error[rule] for test in tests) for rule in tests[0].naive_error}
    return {"ours": statistics.median(test.error for test in tests), **rules}


def _over_ladders(ladders: list[dict[str, float]]) -> dict[str, Any]:
    medians = {rule: round(statistics.median(ladder[rule] for ladder in ladders), 3) for rule in ladders[0]}
    return {**medians, "each of ours": [round(ladder["ours"], 3) for ladder in ladders]}


def _medians(rungs: list[RungResult], value: Callable[[RungResult], float]) -> dict[str, float]:
    by_rung: dict[str, list[float]] = defaultdict(list)
    for rung in rungs:
        by_rung[f"{rung.state} {rung.size:g}x c{rung.clients}"].append(value(rung))
    return {name: round(statistics.median(values), 2) for name, values in by_rung.items()}


if __name__ == "__main__":
    main()
