"""What production shows after a rollout: the same looks as before it, the refreshes that ran, the canaries that were sampled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from statistics import median

import psycopg

from comporta.capacity.measures.mix import recorded_mix
from comporta.capacity.measures.target import target_facts
from comporta.capacity.model import Mix, TargetFacts
from comporta.health.book import BreakerBook, StoredSample
from comporta.postgres.connection import connect
from comporta.postgres.queries import load
from comporta.release.model import Release
from comporta.settings import Settings

_TIMEOUT_MS = 30_000


@dataclass(frozen=True)
class Production:
    """What was found. None is what nobody recorded: it is not compared."""

    target: TargetFacts
    mix: Mix
    refresh_s: float | None = None
    canaries_p95_ms: float | None = None


def look_at_production(settings: Settings, release: Release, target: str, since: datetime) -> Production:
    """Look at the target, which is only read. ``target`` is its name in samples, ``since`` when the rollout ended."""
    dsn, plan = settings.require("target"), release.capacity
    own = tuple(release.canaries.values())
    with BreakerBook(settings.require("control")) as book:
        samples = book.samples(release.name, since=since, target=target)
    facts = target_facts(dsn, settings.shadows()[0], plan, own_queries=own)
    seen = [facts.connections_peak, *(_connections(each, facts.max_connections) for each in samples)]
    return Production(
        target=facts.model_copy(update={"connections_peak": max((each for each in seen if each), default=None)}),
        mix=recorded_mix(dsn, settings.home / "sql" / "capacity" / "load", plan.shares, own_queries=own),
        refresh_s=_refresh_s(dsn, since),
        canaries_p95_ms=_middle(samples, "latency"),
    )


def _connections(sample: StoredSample, most: int) -> int | None:
    return round(sample.value * most) if sample.breaker == "connections" and sample.value is not None else None


def _middle(samples: list[StoredSample], breaker: str) -> float | None:
    values = [each.value for each in samples if each.breaker == breaker and each.value is not None]
    return median(values) if values else None


def _refresh_s(dsn: str, since: datetime) -> float | None:
    """None without pg_cron, without a run since, or where its history may not be read."""
    with connect(dsn, name="comporta/capacity", statement_timeout_ms=_TIMEOUT_MS) as conn:
        try:
            row = conn.execute(load(__package__, "refresh_seconds.sql").encode(), {"since": since}).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidSchemaName):
            return None
    return float(row[0]) if row and row[0] is not None else None
