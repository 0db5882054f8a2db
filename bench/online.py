"""Does anybody notice? Each change of the release on a fresh clone under live traffic, several times, medians and worst.

    python bench/online.py --rows 300000 --runs 5 [--target DSN --shadow DSN] [--reads 50 --writes 50]

Without DSNs it makes two private clusters and loads the demo catalogue. For each change: seconds, the longest stall of
any concurrent operation, the longest ACCESS EXCLUSIVE on anything in use, the longest wait behind the script's locks,
failed operations, lost writes. Prints JSON; times depend on the machine, so the budget stands beside each number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comporta.demo.load import load_catalogue
from comporta.dryrun.rehearsal import open_rehearsal
from comporta.local.account import Account
from comporta.local.cluster import CATALOGUE_SETTINGS, SHADOW_INITDB_OPTIONS, Cluster
from comporta.local.layout import server_root
from comporta.settings import Settings, project_root

MEASURES = ("seconds", "longest_stall", "longest_access_exclusive", "longest_wait_caused")


def main() -> None:
    """Run and print."""
    options = _options()
    with ExitStack() as stack:
        target, shadow = (options.target, options.shadow) if options.target else own_servers(stack, options.rows)
        archives = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comporta-bench-")))
        runs = [_one_run(target, shadow, archives, number, options) for number in range(options.runs)]
    json.dump({"rows": options.rows, "runs": options.runs, "changes": _summary(runs)}, sys.stdout, indent=1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--reads", type=int, default=50)
    parser.add_argument("--writes", type=int, default=50)
    parser.add_argument("--target", help="conninfo of a target that holds the demo catalogue")
    parser.add_argument("--shadow", help="conninfo of a shadow server")
    return parser.parse_args()


def own_servers(stack: ExitStack, rows: int) -> tuple[str, str]:
    root = server_root(project_root() / ".comporta" / "bench", Account.current())
    clusters = [
        Cluster(f"bench-{name}", root / name, 55_700 + n, CATALOGUE_SETTINGS, initdb_options=options)
        for n, (name, options) in enumerate((("target", ()), ("shadow", SHADOW_INITDB_OPTIONS)))
    ]
    for cluster in clusters:
        cluster.choose_port(avoid={other.port for other in clusters if other is not cluster})
        cluster.create()
        cluster.start()
        stack.callback(cluster.stop)
    clusters[0].ensure_database("gis")
    load_catalogue(clusters[0].dsn("gis"), rows=rows)
    return clusters[0].dsn("gis"), clusters[1].dsn()


def _one_run(target: str, shadow: str, archives: Path, number: int, options: argparse.Namespace) -> dict[str, Any]:
    settings = Settings(home=project_root(), target_dsn=target, shadow_dsn=shadow, archives=archives)
    with open_rehearsal(
        settings,
        run_id=f"bench-{number}",
        started=datetime.now(UTC),
        actor="bench",
        say=lambda text: print(text, file=sys.stderr),
        keep_clone=number > 0,
        record=False,
        rates={"reads_per_s": options.reads, "writes_per_s": options.writes},
    ) as rehearsal:
        report, _ = rehearsal.run_all()
    data: dict[str, Any] = json.loads(report.json.read_text(encoding="utf-8"))
    return data


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for change in runs[0]["changes"]:
        found = [each for run in runs for each in run["changes"] if each["name"] == change["name"] and each["numbers"]]
        numbers = [each["numbers"] for each in found]
        summary[change["name"]] = {
            "runs": len(numbers),
            "verdicts": [each["verdict"] for each in found],
            "budget_ms": {
                "stall": change["budget"]["longest_stall_ms"],
                "lock": change["budget"]["longest_exclusive_lock_ms"],
            },
            **{
                name: {
                    "median": round(statistics.median(each[name] or 0.0 for each in numbers), 4),
                    "worst": round(max(each[name] or 0.0 for each in numbers), 4),
                }
                for name in MEASURES
                if numbers
            },
            **{
                name: sum(each[name] for each in numbers)
                for name in ("operations", "failed", "acknowledged_writes", "lost_writes")
            },
            "before_after_ms": {
                query["name"]: [
                    round(
                        1000
                        * statistics.median(
                            q["before"] or 0 for each in found for q in each["queries"] if q["name"] == query["name"]
                        ),
                        3,
                    ),
                    round(
                        1000
                        * statistics.median(
                            q["after"] or 0 for each in found for q in each["queries"] if q["name"] == query["name"]
                        ),
                        3,
                    ),
                ]
                for query in change.get("queries", [])
            },
        }
    return summary


if __name__ == "__main__":
    main()
