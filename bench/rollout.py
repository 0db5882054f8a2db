"""What does a rollout cost beside its scripts, and who notices? The five changes by psql, sqitch and us, under traffic, in one run.

    python bench/rollout.py --rows 100000 --rounds 2 [--only psql comporta] [--reads 50 --writes 50] > rollout.json

Everybody gets a fresh copy of one demo catalogue on a private cluster, and the same live traffic: apply and verify all five, then
roll all back in reverse. Ours is the engine without Airflow (``carry`` and ``roll_back``) with a gate that is asked, proofs on
record, breakers, fingerprints and ledger; the soak is short, told, and not in its times. sqitch (Debian: sqitch, libdbd-pg-perl)
takes part where it is installed. JSON goes to standard output, a table to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers.plan import Plan, of_release
from peers.server import Server, own_server
from peers.tools import Psql, Ran, Sqitch, registry_left_out
from rich.console import Console
from rich.table import Table
from rollouts import ground
from rollouts.felt import Windows, felt
from rollouts.spent import Spent, measured

from comporta.demo.traffic import Traffic, lost_writes
from comporta.errors import ComportaError
from comporta.health import monitoring
from comporta.postgres.connection import connect
from comporta.proof import fingerprint
from comporta.release.model import load_release
from comporta.rollout.engine import Rollout, open_rollout
from comporta.settings import project_root

PHASES = ("apply", "verify", "rollback")
OURS = "comporta"
NOT_INSTALLED = "not installed"
SETTLE_S = 3.0
Run = dict[str, Any]


class CannotCompare(ComportaError):
    """A tool did not get to the end: its times would be of something else."""


def main() -> None:
    """Run and print."""
    options = _options()
    release = load_release(project_root() / "config" / "release.yaml", project_root() / "sql")
    plan = of_release(release)
    everybody: list[Psql | Sqitch] = [Psql(), Sqitch()]
    versions = {tool.name: tool.version() or NOT_INSTALLED for tool in everybody} | {OURS: "this checkout"}
    wanted = [name for name in versions if not options.only or name in options.only]
    for name in [name for name in wanted if versions[name] == NOT_INSTALLED]:
        _say(f"{name}: {NOT_INSTALLED}, left out")
        wanted.remove(name)
    with ExitStack() as stack:
        server = Server(stack.enter_context(own_server("rollout")), release)
        stack.callback(server.tidy_up)
        _say(f"load {options.rows} rows")
        server.prepare(options.rows)
        ways: dict[str, Callable[[], Run]] = {
            tool.name: lambda tool=tool: _by_tool(tool, server, plan, options) for tool in everybody
        }
        ways[OURS] = lambda: _by_us(server, options)
        runs: dict[str, list[Run]] = {name: [] for name in wanted}
        for number in range(options.rounds):
            first = number % len(wanted)
            for name in (*wanted[first:], *wanted[:first]):
                runs[name].append(ways[name]())
                _say(f"round {number + 1}: {name} {runs[name][-1]['seconds']}")
    result = {
        "rows": options.rows,
        "rounds": options.rounds,
        "traffic_per_s": {"reads": options.reads, "writes": options.writes},
        "soak_s_of_each_change_not_in_the_times": ground.SOAK_S,
        "versions": versions,
        "tools": {name: _summary(found, runs.get("psql", ())) for name, found in runs.items()},
        "runs": runs,
    }
    json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
    print()
    Console(stderr=True, width=140).print(_table(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reads", type=float, default=50)
    parser.add_argument("--writes", type=float, default=50)
    parser.add_argument("--only", nargs="+", choices=["psql", "sqitch", OURS])
    return parser.parse_args()


def _by_tool(tool: Psql | Sqitch, server: Server, plan: Plan, options: argparse.Namespace) -> Run:
    with (
        tempfile.TemporaryDirectory(prefix="comporta-rollout-") as name,
        _under_traffic(server, options) as (live, run),
    ):
        tool.write(plan, Path(name), server.catalogue)
        for phase, step in (("apply", tool.apply), ("verify", tool.verify), ("rollback", tool.revert)):
            ran: Ran = live.timed(phase, step)
            if not ran.ok:
                raise CannotCompare(f"{tool.name}: {phase}: {' / '.join(ran.said(8))}", remedy="Run it by hand.")
    return run


def _by_us(server: Server, options: argparse.Namespace) -> Run:
    with tempfile.TemporaryDirectory(prefix="comporta-rollout-") as name, ExitStack() as stack:
        control = server.fresh_ledger()
        live, run = stack.enter_context(_under_traffic(server, options))
        settings = ground.make_project(Path(name), target=server.catalogue, control=control)
        ground.prove(settings)
        stack.enter_context(monitoring(settings, ground.release_of(settings)))
        spent = stack.enter_context(measured())
        with _opened(settings, "bench-rollout") as rollout:
            live.timed("preflight", rollout.preflight)
            go = live.timed("gate", lambda: ground.go_of(rollout))
            live.spend(spent)
            for step in ("apply", "verify", "watch"):
                live.wrap(rollout, step)
            if not rollout.carry([change.name for change in rollout.release.changes], go):
                raise CannotCompare("our rollout did not get to its end", remedy="Its lines above say why.")
            run["spent_forward_s"] = spent.taken()
            for change in reversed(rollout.release.changes):
                live.timed("rollback", lambda change=change: _rolled_back(rollout, change.name))
            run["spent_back_s"] = spent.taken()
            live.timed("outcome", rollout.outcome)
        run["parts_s"] = {part: round(live.windows.seconds(part), 3) for part in live.windows.of}
    return run


def _rolled_back(rollout: Rollout, name: str) -> None:
    rollout.roll_back(name, why="asked", because="bench")
    if wrong := rollout.not_restored(name):
        raise CannotCompare("; ".join(wrong), remedy="See the lines above.")


@contextmanager
def _opened(settings: Any, run: str) -> Iterator[Rollout]:
    with open_rollout(settings, run=run, started=datetime.now(UTC), actor=ground.ACTOR, say=_say_of_ours) as rollout:
        yield rollout


class _Live:
    """The windows of a run's phases, while traffic runs."""

    def __init__(self) -> None:
        self.windows = Windows()

    def timed(self, phase: str, step: Callable[..., Any], *args: Any) -> Any:
        """Do a step, and note when."""
        began = time.time()
        try:
            return step(*args)
        finally:
            self.windows.add(phase, began, time.time())

    def wrap(self, rollout: Rollout, step: str) -> None:
        """Note when the engine itself takes a step."""
        inner = getattr(rollout, step)
        setattr(rollout, step, lambda *args: self.timed(step, inner, *args))

    def spend(self, spent: Spent) -> None:
        """Count from here on."""
        spent.taken()


@contextmanager
def _under_traffic(server: Server, options: argparse.Namespace) -> Iterator[tuple[_Live, Run]]:
    """A fresh copy with traffic on it; afterwards the run holds what the traffic felt, lost writes, and whether it was restored."""
    dsn = server.fresh()
    with connect(dsn, name=ground.ACTOR) as conn:
        conn.execute("analyze")  # a copied database has not counted its rows
        conn.execute("checkpoint")
    before, live, run = ground.look(dsn), _Live(), {"load_before": round(os.getloadavg()[0], 1)}
    with Traffic(dsn, reads_per_s=options.reads, writes_per_s=options.writes) as traffic:
        time.sleep(SETTLE_S)
        yield live, run
        time.sleep(SETTLE_S)
        record = traffic.stop()
    ignored = (fingerprint.SEQUENCE_POSITIONS,)
    differences = [str(each) for each in fingerprint.diff(before, ground.look(dsn), ignore=ignored)]
    lost = lost_writes(dsn, record)
    run |= {
        "seconds": {phase: round(live.windows.seconds(phase), 3) for phase in PHASES},
        "felt": felt(record, live.windows),
        "operations": len(record.operations),
        "failed": len(record.failed()),
        "errors": sorted({str(each.error) for each in record.failed()})[:5],
        "acknowledged_writes": len(record.acknowledged),
        "lost_writes": len(lost),
        "lost": [str(each) for each in lost[:5]],
        "generator_lag_ms": round(1000 * record.longest_lag_s, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "not_restored": [each for each in differences if registry_left_out(each)],
    }


def _summary(runs: Sequence[Run], base: Sequence[Run]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for phase in PHASES:
        ratios = [mine["seconds"][phase] / its["seconds"][phase] for mine, its in zip(runs, base, strict=False)]
        felt_then = [run["felt"][phase] for run in runs]
        found[phase] = {
            "median_s": round(statistics.median(run["seconds"][phase] for run in runs), 3),
            "of_psql_median": round(statistics.median(ratios), 2) if ratios else None,
            "longest_read_stall_ms": max((each["longest_read_stall_ms"] or 0.0 for each in felt_then), default=None),
            "longest_write_stall_ms": max((each["longest_write_stall_ms"] or 0.0 for each in felt_then), default=None),
        }
    whole = [sum(run["seconds"].values()) for run in runs]
    ratios = [mine / sum(its["seconds"].values()) for mine, its in zip(whole, base, strict=False)]
    return found | {
        "all": {
            "median_s": round(statistics.median(whole), 3),
            "of_psql_median": round(statistics.median(ratios), 2) if ratios else None,
        },
        **{
            key: sum(run[key] for run in runs) for key in ("operations", "failed", "acknowledged_writes", "lost_writes")
        },
        "restored": sum(not run["not_restored"] for run in runs),
        **{
            key: {what: round(statistics.median(run[key].get(what, 0.0) for run in runs), 3) for what in runs[0][key]}
            for key in ("parts_s", "spent_forward_s", "spent_back_s")
            if key in runs[0]
        },
    }


def _table(result: dict[str, Any]) -> Table:
    tools = result["tools"]
    table = Table(title=f"{result['rows']} rows, {result['rounds']} round(s)")
    table.add_column("")
    for name in tools:
        table.add_column(f"{name}\n{result['versions'][name]}")
    for phase in (*PHASES, "all"):
        cells = (f"{each[phase]['median_s']} ({each[phase]['of_psql_median']})" for each in tools.values())
        table.add_row(f"{phase}: s (of psql)", *cells)
    for phase in PHASES:
        cells = (
            f"{each[phase]['longest_read_stall_ms']:.0f} / {each[phase]['longest_write_stall_ms']:.0f}"
            for each in tools.values()
        )
        table.add_row(f"{phase}: longest stall, reads / writes, ms", *cells)
    for what, of in (("failed", "operations"), ("lost_writes", "acknowledged_writes")):
        table.add_row(what, *(f"{each[what]} of {each[of]}" for each in tools.values()))
    table.add_row("restored", *(f"{each['restored']} of {result['rounds']}" for each in tools.values()))
    return table


def _say_of_ours(text: str) -> None:
    if not text.startswith("  "):  # single statements
        _say(f"    {text}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
