"""What do sqitch and Liquibase take for the same five changes, and what do they notice? Beside psql and us, in one run.

    python bench/peers.py --rows 5000 --rounds 3 [--liquibase PATH] [--target DSN] [--only psql comporta] [--skip-trials]

Everybody gets the release's own scripts on a fresh copy of one demo catalogue: deploy, verify (where the tool can), roll
back; ours with fingerprint and checksums before and after. Then four kinds of trouble: a rollback that leaves something
behind, a backend killed in the middle, a reader in the way, a forged audit row. sqitch (Debian: sqitch, libdbd-pg-perl)
and Liquibase (npm: liquibase@4.28.1, with Java) take part where they are installed. Without ``--target`` (a superuser's
conninfo of a throwaway server with PostGIS and pg_cron, without a database gis) it makes a private cluster.
JSON goes to standard output, a table to standard error. See docs/benchmarks-peers.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from peers import trials
from peers.plan import Plan, of_release
from peers.server import Server, own_server
from peers.tools import Liquibase, Ours, Psql, Sqitch
from rich.console import Console
from rich.table import Table

from comporta.release.model import load_release
from comporta.settings import project_root

NOT_INSTALLED = "not installed"
AnyTool = Psql | Sqitch | Liquibase | Ours
Results = dict[str, dict[str, Any]]


def main() -> None:
    """Run and print."""
    options = _options()
    release = load_release(project_root() / "config" / "release.yaml", project_root() / "sql")
    plan = of_release(release)
    everybody: list[AnyTool] = [Psql(), Sqitch(), Liquibase(options.liquibase), Ours()]
    versions = {tool.name: tool.version() or NOT_INSTALLED for tool in everybody}
    present = [
        tool
        for tool in everybody
        if versions[tool.name] != NOT_INSTALLED and (not options.only or tool.name in options.only)
    ]
    with ExitStack() as stack:
        server = Server(options.target or stack.enter_context(own_server()), release)
        stack.callback(server.tidy_up)
        _say(f"load {options.rows} rows")
        server.prepare(options.rows)
        times = _race(present, server, plan, options.rounds)
        found = {} if options.skip_trials else _trials(present, server, plan, release.changes[0].budget.lock_timeout_ms)
    result = {
        "rows": options.rows,
        "rounds": options.rounds,
        "changes": [step.name for step in plan],
        "versions": versions,
        "times": times,
        "trials": found,
    }
    json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
    print()
    Console(stderr=True, width=150).print(_table(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--liquibase", default="liquibase", help="the program, when it is not on PATH")
    parser.add_argument(
        "--target", help="superuser's conninfo of a server; databases gis, gis_golden come and go there"
    )
    parser.add_argument("--only", nargs="+", choices=["psql", "sqitch", "liquibase", "comporta"])
    parser.add_argument("--skip-trials", action="store_true", help="times only")
    return parser.parse_args()


def _race(tools: Sequence[AnyTool], server: Server, plan: Plan, rounds: int) -> Results:
    """Every tool once a round, each time another one first; one round before that only warms the caches."""
    runs: dict[str, list[dict[str, Any]]] = {tool.name: [] for tool in tools}
    failed: Results = {}
    with suppress(trials.CannotDeploy):
        _one_run(tools[0], server, plan)
    for number in range(rounds):
        for tool in (*tools[number % len(tools) :], *tools[: number % len(tools)]):
            if tool.name in failed:
                continue
            try:
                runs[tool.name].append(_one_run(tool, server, plan))
            except trials.CannotDeploy as error:
                failed[tool.name] = {"error": str(error)}
                continue
            _say(f"round {number + 1}: {tool.name} {runs[tool.name][-1]['seconds']:.2f} s")
    baseline = runs.get("psql", [])
    return failed | {tool.name: _summary(tool, runs[tool.name], baseline) for tool in tools if tool.name not in failed}


def _one_run(tool: AnyTool, server: Server, plan: Plan) -> dict[str, Any]:
    with trials.project(tool, plan, server):
        cpu = server.cpu_seconds()
        deployed = trials.deployed(tool)
        reverted = tool.revert()
        after = server.cpu_seconds()
        return {
            "seconds": deployed.seconds + reverted.seconds,
            "deploy_s": deployed.seconds,
            "revert_s": reverted.seconds,
            "client_cpu_s": deployed.cpu_seconds + reverted.cpu_seconds,
            "server_cpu_s": None if cpu is None or after is None else after - cpu,
            "cpu_s": None
            if cpu is None or after is None
            else after - cpu + deployed.cpu_seconds + reverted.cpu_seconds,
            "proof_s": _proof_seconds(deployed.output + reverted.output),
            "code": reverted.code,
            "restored": server.judge().restored,
        }


def _proof_seconds(output: str) -> float:
    return sum(float(line.split()[1]) for line in output.splitlines() if line.startswith("proof: "))


def _summary(tool: AnyTool, runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def middle(key: str) -> float | None:
        values = [run[key] for run in runs if run[key] is not None]
        return round(statistics.median(values), 3) if values else None

    ratios = [run["seconds"] / base["seconds"] for run, base in zip(runs, baseline, strict=False)]
    cpu = [
        run["cpu_s"] / base["cpu_s"]
        for run, base in zip(runs, baseline, strict=False)
        if run["cpu_s"] and base["cpu_s"]
    ]
    return {
        "verifies": tool.verifies,
        "proves": tool.proves,
        "runs": len(runs),
        "min_s": round(min(run["seconds"] for run in runs), 3),
        **{
            f"median_{key}": middle(key)
            for key in ("seconds", "deploy_s", "revert_s", "client_cpu_s", "server_cpu_s", "cpu_s", "proof_s")
        },
        "of_psql_median": round(statistics.median(ratios), 2) if ratios else None,
        "of_psql_min": round(min(run["seconds"] for run in runs) / min(run["seconds"] for run in baseline), 2)
        if baseline
        else None,
        "cpu_of_psql_median": round(statistics.median(cpu), 2) if cpu else None,
        "restored": sum(run["restored"] for run in runs),
        "codes": sorted({run["code"] for run in runs}),
    }


def _trials(tools: Sequence[AnyTool], server: Server, plan: Plan, lock_timeout_ms: int) -> Results:
    each: dict[str, Callable[[AnyTool], dict[str, Any]]] = {
        "wrong_rollback": lambda tool: trials.wrong_rollback(tool, server, plan),
        "killed": lambda tool: trials.killed(tool, server, plan),
        "killed_careless": lambda tool: trials.killed_careless(tool, server),
        "behind_a_reader": lambda tool: trials.behind_a_reader(tool, server, plan),
        "behind_a_reader_careless": lambda tool: trials.behind_a_reader_careless(tool, server),
        "behind_a_reader_bounded": lambda tool: trials.behind_a_reader_careless(
            replace(tool, lock_timeout_ms=lock_timeout_ms), server
        ),
        "forged": lambda tool: trials.forged_ledger(server) if isinstance(tool, Ours) else trials.forged(tool, server),
    }
    found: Results = {}
    for name, trial in each.items():
        found[name] = {}
        for tool in tools:
            started = time.monotonic()
            try:
                found[name][tool.name] = trial(tool)
            except trials.CannotDeploy as error:
                found[name][tool.name] = {"error": str(error)}
            _say(f"{name}: {tool.name} ({time.monotonic() - started:.0f} s)")
    return found


def _table(result: dict[str, Any]) -> Table:
    names = list(result["versions"])
    table = Table(title=f"{result['rows']} rows, {result['rounds']} round(s), n = 1 for each trial")
    table.add_column("")
    for name in names:
        table.add_column(f"{name}\n{result['versions'][name]}")
    for label, cell in _ROWS.items():
        cells = [_cell(result, name, cell) for name in names]
        table.add_row(label, *cells)
    return table


def _cell(result: dict[str, Any], name: str, cell: Callable[[dict[str, Any], dict[str, Any]], str]) -> str:
    if result["versions"][name] == NOT_INSTALLED:
        return NOT_INSTALLED
    times = result["times"].get(name)
    if times is None or "error" in times:
        return "left out" if times is None else "could not deploy"
    found = {
        trial: by_tool[name]
        for trial, by_tool in result["trials"].items()
        if by_tool.get(name) and "error" not in by_tool[name]
    }
    try:
        return cell(times, found)
    except KeyError:
        return "-"


def _rerun(found: dict[str, Any]) -> str:
    if not found["killed"]:
        return "was over before it could be killed"
    again = found["again"]
    ended = "cut off" if again["code"] is None else f"rc {again['code']}"
    text = f"rc {found['code']}; again: {ended}, {again['seconds']} s, {'converged' if found['converged'] else 'NOT converged'}"
    if freed := found.get("after_release_locks"):
        text += f"; release-locks, again: rc {freed['code']}, {'converged' if freed['converged'] else 'NOT converged'}"
    return text


def _stall(found: dict[str, Any]) -> str:
    return f"{found['longest_select_ms']:.0f} ms, rc {found['code']}, {found['seconds']} s"


def _noticed(found: dict[str, Any]) -> str:
    tried = {what: each for what, each in found.items() if what not in ("untouched", "last row and its block")}
    seen = [what for what, each in tried.items() if each["noticed"]]
    return f"{len(seen)} of {len(tried)}" + (f": {', '.join(seen)}" if seen else "")


_ROWS: dict[str, Callable[[dict[str, Any], dict[str, Any]], str]] = {
    "seconds, min / median": lambda times, _: f"{times['min_s']:.2f} / {times['median_seconds']:.2f}",
    "of psql, min / median": lambda times, _: f"{times['of_psql_min']} / {times['of_psql_median']}",
    "CPU s, client / server": lambda times, _: f"{times['median_client_cpu_s']} / {times['median_server_cpu_s']}",
    "CPU of psql, median": lambda times, _: str(times["cpu_of_psql_median"]),
    "of it proof, s": lambda times, _: str(times["median_proof_s"]) if times["proves"] else "proves nothing",
    "verifies after deploy": lambda times, _: "yes" if times["verifies"] else "no",
    "A wrong rollback": lambda _, found: (
        f"{'noticed' if found['wrong_rollback']['noticed'] else 'not noticed'}, rc {found['wrong_rollback']['code']}"
    ),
    "B killed, our scripts": lambda _, found: _rerun(found["killed"]),
    "B asked after the kill": lambda _, found: next(
        (line for line in reversed(found["killed"]["asked"]["said"]) if "successfully" not in line), "-"
    ),
    "B killed, careless script": lambda _, found: _rerun(found["killed_careless"]),
    "C 6 s reader, our scripts": lambda _, found: _stall(found["behind_a_reader"]),
    "C 6 s reader, careless script": lambda _, found: _stall(found["behind_a_reader_careless"]),
    "C the same, lock_timeout by hand": lambda _, found: _stall(found["behind_a_reader_bounded"]),
    "D forged audit rows noticed": lambda _, found: _noticed(found["forged"]),
}


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
