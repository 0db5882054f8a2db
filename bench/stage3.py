"""What do the proofs cost? All of STAGE 3 on a demo catalogue, and a `restore` proof beside plain psql, in one run.

    python bench/stage3.py --rows 300000 [--scenarios restore] [--only OPT1] [--rounds 3] [--skip-proofs | --skip-psql]

Makes two private clusters and a control database, loads the demo catalogue, then: every proof that the release owes,
with its seconds; and for each change, `psql -f` of apply and rollback on a fresh clone against the `restore` proof of
the same change, round by round. The ratio is (proof - psql) / psql: what proving adds to doing. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from online import own_servers

from comporta.local.databases import prepare_control
from comporta.postgres.connection import with_database
from comporta.postgres.tools import run_client
from comporta.settings import Settings, project_root
from comporta.shadow.clone import Shadow
from comporta.shadow.images import Images
from comporta.validation.model import Proof
from comporta.validation.runner import Validation, open_validation


def main() -> None:
    """Run and print."""
    options = _options()
    with ExitStack() as stack:
        target, shadow = own_servers(stack, options.rows)
        control = with_database(target, "comporta_bench")
        prepare_control(control, project_root())
        settings = Settings(
            home=project_root(),
            target_dsn=target,
            shadow_dsn=shadow,
            control_dsn=control,
            archives=Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comporta-bench-"))),
        )
        result: dict[str, Any] = {"rows": options.rows}
        if not options.skip_proofs:
            result["proofs"] = _all_proofs(settings, options)
        if not options.skip_psql:
            result["restore_beside_psql"] = _beside_psql(settings, options)
    json.dump(result, sys.stdout, indent=1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenarios", nargs="*", help="only these, such as restore killed order")
    parser.add_argument("--only", nargs="*", help="only these changes")
    parser.add_argument("--skip-proofs", action="store_true")
    parser.add_argument("--skip-psql", action="store_true")
    return parser.parse_args()


def _validation(settings: Settings, name: str, **wanted: Any) -> Any:
    return open_validation(settings, run_id=name, started=datetime.now(UTC), actor="bench", say=_say, **wanted)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _all_proofs(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    with _validation(settings, "all", only=options.only, scenarios=options.scenarios) as validation:
        started = time.monotonic()
        validation.prepare()
        prepared = time.monotonic()
        proofs: list[Proof] = [validation.prove(task) for task in validation.tasks]
        return {
            "prepare_s": round(prepared - started, 1),
            "proofs_s": round(time.monotonic() - prepared, 1),
            "held": sum(proof.holds for proof in proofs),
            "owed": len(validation.tasks),
            "acknowledged_writes": sum(proof.felt.acknowledged_writes for proof in proofs),
            "lost_writes": sum(len(proof.lost_writes) for proof in proofs),
            "failed_operations": sum(proof.felt.failed for proof in proofs),
            "excused_operations": sum(proof.felt.excused for proof in proofs),
            "faults": sum(len(proof.faults) for proof in proofs),
            "each": {
                proof.key: {
                    "verdict": proof.verdict,
                    "seconds": round(proof.seconds, 1),
                    "faults": len(proof.faults),
                    "writes": proof.felt.acknowledged_writes,
                    "longest_stall_ms": round(proof.felt.longest_stall_s * 1000),
                    "longest_wait_caused_ms": _longest_wait_ms(proof),
                    "reasons": proof.reasons,
                }
                for proof in proofs
            },
        }


def _longest_wait_ms(proof: Proof) -> int | None:
    waits = [phase.longest_wait_caused_s for phase in proof.phases if phase.longest_wait_caused_s is not None]
    return round(max(waits) * 1000) if waits else None


def _beside_psql(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of psql and proof in turn; the proof once without traffic, as psql has none, and once beside reads."""
    quiet = {"reads_per_s": 0, "writes_per_s": 0}
    wanted = {"only": options.only, "scenarios": ["restore"]}
    with (
        _validation(settings, "quiet", rates=quiet, **wanted) as without,
        _validation(settings, "reads", **wanted) as beside,
    ):
        without.prepare()
        rounds = [_one_round(without, beside) for _ in range(options.rounds)]
    names = list(rounds[0])
    median = {
        name: {key: round(statistics.median(each[name][key] for each in rounds), 3) for key in rounds[0][name]}
        for name in names
    }
    sums = [{key: sum(each[name][key] for name in names) for key in ("psql", "proof", "reads")} for each in rounds]
    return {
        "seconds": median,
        "ratio_on_top": round(statistics.median((s["proof"] - s["psql"]) / s["psql"] for s in sums), 2),
        "ratio_on_top_beside_reads": round(statistics.median((s["reads"] - s["psql"]) / s["psql"] for s in sums), 2),
    }


def _one_round(without: Validation, beside: Validation) -> dict[str, dict[str, float]]:
    return {
        task.subject.name: {
            "psql": _psql(without, task.subject.name),
            "proof": without.prove(task).seconds,
            "reads": beside.prove(beside.task(task.subject.name, "restore")).seconds,
        }
        for task in without.tasks
    }


def _psql(validation: Validation, name: str) -> float:
    """Seconds of ``psql -f`` apply and rollback, on a fresh clone with what the change requires."""
    change = validation.release.change(name)
    subject = validation.task(name, "restore").subject
    shadow = Shadow(validation.target_dsn, validation.shadow_dsns[0])
    dsn = Images(shadow, validation.release.support).reset(validation.layers(subject.base), "bench")
    started = time.monotonic()
    for script in (change.apply, change.rollback):
        done = run_client("psql", dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script.path))
        if done.returncode:
            raise SystemExit(done.stderr)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
