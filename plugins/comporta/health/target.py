"""One look at the target: a fresh connection as an application would open one, every signal, every canary. It only reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import psycopg

from comporta.errors import ComportaError
from comporta.health.baseline import Baseline, CanaryBaseline
from comporta.health.canaries import Run, error_share, p95, run_canaries
from comporta.health.sample import Sample, no_data
from comporta.health.signals import Scope, judge_canaries, read_signals
from comporta.postgres.connection import Connection, connect, identify, with_options
from comporta.release.health import HealthPlan
from comporta.release.model import Release

APPLICATION = "comporta/health"
_READ_ONLY = "-c default_transaction_read_only=on -c idle_in_transaction_session_timeout=60s"


def open_target(dsn: str, plan: HealthPlan) -> Connection:
    """A connection that cannot write and gives up on a statement after ``timeout_ms``; UnreachableServer says why there is none."""
    return connect(with_options(dsn, _READ_ONLY), name=APPLICATION, statement_timeout_ms=plan.timeout_ms)


def name_of(conn: Connection) -> str:
    """The target's name in samples and events: system identifier of the server, and database."""
    found = identify(conn)
    return f"{found.system_identifier}/{found.database}"


def identify_target(dsn: str, plan: HealthPlan) -> str:
    """The target's name; UnreachableServer or psycopg.Error when it cannot be asked."""
    with open_target(dsn, plan) as conn:
        return name_of(conn)


def tables_of(release: Release) -> tuple[str, ...]:
    """The tables that the release changes, each once."""
    return tuple(dict.fromkeys(table for change in release.changes for table in change.tables))


def take_samples(dsn: str, target: str, release: Release, baseline: Baseline | None) -> list[Sample]:
    """A sample of every watched signal. A target that is sick, absent or another one than expected gives no data, never an error.

    Begins no canary after half of ``stale_s``: what takes longer would be stale when it is reported.
    """
    plan = release.health
    began = time.perf_counter()
    samples: list[Sample] = []
    runs: list[Run] = []
    try:
        with open_target(dsn, plan) as conn:
            if (found := name_of(conn)) != target:
                return all_without_data(plan, f"expected the target {target}, found {found}")
            samples = read_signals(Scope(conn, plan, tables_of(release), baseline))
            runs = list(run_canaries(conn, release.canaries, role=plan.canary_role, until=began + plan.stale_s / 2))
    except (psycopg.Error, ComportaError) as error:
        why = error.message if isinstance(error, ComportaError) else " ".join(str(error).split())
        seen = {sample.breaker for sample in samples}
        return samples + [each for each in all_without_data(plan, why) if each.breaker not in seen]
    return samples + judge_canaries(plan, runs, baseline, _why_no_run(release))


def _why_no_run(release: Release) -> str:
    return (
        "there was no time left for a canary" if release.canaries else "the release names no canary (health.canaries)"
    )


def all_without_data(plan: HealthPlan, why: str) -> list[Sample]:
    """No data for every watched signal, for one reason."""
    return [no_data(name, why) for name in plan.signals.names if plan.signals[name].not_watched is None]


def measure_baseline(dsn: str, release: Release, say: Callable[[str], None]) -> Baseline:
    """Run each canary ``baseline_runs`` times, after one round that warms the caches, and read each signal once.

    Each round has a connection of its own, as each look has: what a new one costs is in both.
    UnreachableServer when the target is away: a baseline is asked for by somebody who wants to know.
    """
    plan = release.health
    with open_target(dsn, plan) as conn:
        target = name_of(conn)
        samples = read_signals(Scope(conn, plan, tables_of(release), None))
    say(f"baseline of {target}: {len(release.canaries)} canaries, {plan.baseline_runs} runs each")
    rounds = [_round(dsn, release) for _ in range(plan.baseline_runs + 1)]
    runs = [run for each in rounds[1:] for run in each]
    signals: dict[str, float | None] = {sample.breaker: sample.value for sample in samples}
    return Baseline(
        target, _by_name(runs, release.canaries), {"errors": error_share(runs), "latency": p95(runs), **signals}
    )


def _round(dsn: str, release: Release) -> list[Run]:
    with open_target(dsn, release.health) as conn:
        return list(run_canaries(conn, release.canaries, role=release.health.canary_role))


def _by_name(runs: Sequence[Run], names: Mapping[str, str]) -> dict[str, CanaryBaseline]:
    return {name: CanaryBaseline.of([run for run in runs if run.name == name]) for name in names}
