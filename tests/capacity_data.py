"""A demo catalogue as STAGE 4 would have measured it, told by hand: what tests of fit, forecast and report share.

300,000 rows that grew with the square of time since 2019, a ladder of clients and sizes before and after the release, a few rungs
after each change, Universal Scalability Law throughput with lognormal noise, and sizes that are so many bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np

from comporta.capacity.model import (
    BEFORE,
    History,
    Latency,
    Measured,
    Mix,
    MixedTransaction,
    MonthCount,
    Planning,
    Refresh,
    RelationSize,
    RungResult,
    StateFacts,
    TargetFacts,
)
from comporta.release.capacity import CapacityPlan

GB = 1024**3
MB = 1024**2
NOW = date(2026, 11, 30)
FIRST_DAY = date(2019, 1, 1)
LAST_DAY = date(2026, 11, 30)
STATES = (BEFORE, "OPT1", "OPT2", "OPT3", "OPT4", "OPT5")
SHARES = {
    "read_id": 26.0, "read_window": 11.0, "read_map": 6.5, "read_published": 6.0, "search": 0.25,
    "insert": 13.0, "rename": 13.0, "reshape": 8.0, "redate": 6.0, "delete": 3.0, "annotate": 6.0,
}  # fmt: skip
PLAN = CapacityPlan(
    history={
        "catalogue.geometrias": "created_at",
        "catalogue.annotations": "created_at",
        "catalogue.edits": "edited_at",
    },
    shares=SHARES,
)


@dataclass(frozen=True)
class Law:
    """The truth behind the rungs of a state: throughput of one client at size 1, contention, coherence, and how size slows it."""

    per_s: float
    sigma: float
    kappa: float
    slope: float
    """Throughput falls with size to this power."""
    p95: float = 2.8
    """p95 as a multiple of the mean."""

    def throughput(self, clients: float, size: float) -> float:
        return float(
            self.per_s
            * size**-self.slope
            * clients
            / (1 + self.sigma * (clients - 1) + self.kappa * clients * (clients - 1))
        )

    def latency(self, clients: float, size: float, noise: float = 1.0) -> Latency:
        mean = clients / self.throughput(clients, size) * 1000
        return Latency(mean_ms=mean, p50_ms=mean * 0.6, p95_ms=mean * self.p95 * noise, p99_ms=mean * 4.5 * noise)


LAWS: Mapping[str, Law] = {
    BEFORE: Law(90, 0.22, 0.004, 0.75),
    "OPT1": Law(120, 0.20, 0.003, 0.45),
    "OPT2": Law(125, 0.20, 0.003, 0.42),
    "OPT3": Law(230, 0.18, 0.002, 0.30, 2.4),
    "OPT4": Law(230, 0.18, 0.002, 0.30, 2.4),
    "OPT5": Law(228, 0.18, 0.002, 0.30, 2.4),
}
# Bytes a row of geometrias: the table (in partitions from OPT1 on), its indexes, the view of OPT3.
BYTES: Mapping[str, tuple[float, float, float]] = {
    BEFORE: (720, 260, 0),
    "OPT1": (740, 330, 0),
    "OPT2": (470, 330, 0),
    "OPT3": (470, 350, 140),
    "OPT4": (470, 352, 140),
    "OPT5": (470, 352, 140),
}
APPLY_S: Mapping[str, float] = {"OPT1": 14.0, "OPT2": 9.0, "OPT3": 6.0, "OPT4": 0.4, "OPT5": 0.2}  # at 300,000 rows


@dataclass(frozen=True)
class Catalogue:
    """What is measured. Change a field and ``measured()`` tells of another catalogue; the same fields give the same numbers."""

    rows: int = 300_000
    first_day: date = FIRST_DAY
    last_day: date = LAST_DAY
    power: float = 2.0
    """Rows grow with time to this power; 0 is a catalogue that stopped growing, all of it made in the first month."""
    states: tuple[str, ...] = STATES
    sizes: tuple[float, ...] = (1, 2, 4)
    clients: tuple[int, ...] = (1, 2, 4, 8, 16)
    rounds: int = 2
    noise: float = 0.05
    seed: int = 20261130
    laws: Mapping[str, Law] = field(default_factory=lambda: LAWS)
    calls_per_s: float | None = 50.0
    disk_total_bytes: int | None = 40 * GB
    disk_free_bytes: int | None = 22 * GB
    memory_bytes: int | None = 8 * GB
    connections_peak: int | None = 22
    wal_per_write: float = 2600.0
    refresh_s: float = 1.4
    refresh_interval_s: float | None = 300.0

    def measured(self) -> Measured:
        """The records of a whole run."""
        draw = np.random.default_rng(self.seed)
        return Measured(
            states=self.states,
            target=self.target(),
            mix=self.mix(),
            rungs=tuple(self.rungs(draw)),
            facts=tuple(self.facts(draw)),
        )

    def mix(self) -> Mix:
        recorded = self.calls_per_s is not None
        return Mix(
            recorded=recorded,
            since=datetime(2026, 11, 1, tzinfo=UTC) if recorded else None,
            calls_per_s=self.calls_per_s,
            transactions=tuple(
                MixedTransaction(name=name, weight=share, calls=int(share * 1000) if recorded else 0, mean_ms=4.0)
                for name, share in SHARES.items()
            ),
            covered_calls=0.97 if recorded else 0.0,
            covered_time=0.94 if recorded else 0.0,
            missing=("select count(*) from catalogue.inspections where …",) if recorded else (),
        )

    def months(self) -> list[date]:
        """First days of the months from the first row to the last."""
        first, last = self.first_day, self.last_day
        count = (last.year - first.year) * 12 + last.month - first.month + 1
        return [date(first.year + (first.month - 1 + n) // 12, (first.month - 1 + n) % 12 + 1, 1) for n in range(count)]

    def made_until(self, day: date) -> float:
        """Rows that were made before a day."""
        share = np.clip(
            (day - self.first_day).days / max((self.last_day + timedelta(1) - self.first_day).days, 1), 0, 1
        )
        return float(self.rows * share**self.power) if share > 0 else 0.0

    def history(self, table: str, column: str, share: float, partitions: Mapping[str | None, float]) -> History:
        """Rows by month, spread over partitions in fixed shares."""
        months = self.months()
        ends = [*months[1:], self.last_day + timedelta(1)]
        counts = [
            MonthCount(
                month=month,
                rows=round((self.made_until(end) - self.made_until(month)) * share * part),
                partition=name,
            )
            for month, end in zip(months, ends, strict=True)
            for name, part in partitions.items()
        ]
        return History(
            table=table,
            column=column,
            months=tuple(count for count in counts if count.rows),
            rows=sum(count.rows for count in counts),
            until=datetime(self.last_day.year, self.last_day.month, self.last_day.day, 18, 20, tzinfo=UTC),
        )

    def target(self) -> TargetFacts:
        relations = self.relations(BEFORE, 1.0)
        database = sum(relation.bytes for relation in relations) + 12 * MB
        return TargetFacts(
            target="7212345678901234567/gis",
            at=datetime(NOW.year, NOW.month, NOW.day, 9, 30, tzinfo=UTC),
            database_bytes=database,
            cluster_bytes=database + 400 * MB,
            disk_total_bytes=self.disk_total_bytes,
            disk_free_bytes=self.disk_free_bytes,
            max_connections=100,
            connections_peak=self.connections_peak,
            shared_buffers_bytes=GB,
            memory_bytes=self.memory_bytes,
            wal_bytes_per_s=60_000.0 if self.calls_per_s is not None else None,
            max_wal_bytes=GB,
            histories=(
                self.history("catalogue.geometrias", "created_at", 1.0, partition_shares()),
                self.history("catalogue.annotations", "created_at", 0.1, {None: 1.0}),
                History(
                    table="catalogue.edits",
                    column="edited_at",
                    months=(MonthCount(month=date(2026, 11, 1), rows=320),),
                    rows=320,
                    until=datetime(2026, 11, 30, 9, tzinfo=UTC),
                ),
            ),
            relations=relations,
            settings_unlike_shadow={"shared_buffers": ("1GB", "128MB"), "fsync": ("on", "off")},
            partition_horizon_years=2,
        )

    def rungs(self, draw: np.random.Generator) -> Iterator[RungResult]:
        for state in self.states:
            whole = state in (self.states[0], self.states[-1])
            for size in self.sizes if whole else self.sizes[:2]:
                for turn in range(1, self.rounds + 1):
                    for clients in self.clients if whole else [n for n in self.clients if n == 4]:
                        yield self.rung(state, size, clients, turn, draw)

    def rung(self, state: str, size: float, clients: int, turn: int, draw: np.random.Generator) -> RungResult:
        law, seconds = self.laws[state], 4.0
        noise, tail = np.exp(draw.normal(0, self.noise, 2)) if self.noise else (1.0, 1.0)
        per_s = law.throughput(clients, size) * noise
        latency = law.latency(clients, size, tail)
        latency = Latency(**{name: value / noise for name, value in latency.to_dict().items()})
        transactions = int(per_s * seconds)
        whole = sum(SHARES.values())
        writes = sum(SHARES[name] for name in ("insert", "rename", "reshape", "redate", "delete", "annotate")) / whole
        return RungResult(
            state=state,
            size=size,
            clients=clients,
            round=turn,
            rows=int(self.rows * 1.1 * size),
            seconds=seconds,
            transactions=transactions,
            failed=0,
            throughput_per_s=float(per_s),
            latency=latency,
            by_transaction={
                name: scaled(latency, 0.5 + 0.1 * n) for n, name in enumerate(SHARES)
            },
            calls={name: int(transactions * share / whole) for name, share in SHARES.items()},
            wal_bytes=int(transactions * writes * self.wal_per_write),
        )  # fmt: skip

    def facts(self, draw: np.random.Generator) -> Iterator[StateFacts]:
        for state in self.states:
            whole = state in (self.states[0], self.states[-1])
            for size in self.sizes if whole else self.sizes[:2]:
                relations = self.relations(state, size)
                jitter = float(np.exp(draw.normal(0, self.noise / 2))) if self.noise else 1.0
                yield StateFacts(
                    state=state,
                    size=size,
                    rows=int(self.rows * 1.1 * size),
                    database_bytes=sum(relation.bytes for relation in relations) + 12 * MB,
                    relations=relations,
                    refreshes=self.refreshes(state, size, jitter),
                    planning=self.planning(state, size, jitter),
                    connection_bytes=int((11 if state == BEFORE else 14) * MB * jitter),
                    apply_s=APPLY_S[state] * (self.rows / 300_000) * size * jitter if state in APPLY_S else None,
                )

    def relations(self, state: str, size: float) -> tuple[RelationSize, ...]:
        """Sizes of a state: bytes a row of the table or its partitions, of its indexes, and of the view of OPT3."""
        rows = self.rows * size
        table, index, view = BYTES[state]
        name = "catalogue.geometrias"

        def relation(of: str, name: str, kind: str, per_row: float, rows: float) -> RelationSize:
            return RelationSize(table=of, name=name, kind=kind, bytes=int(8192 * 4 + per_row * rows), rows=int(rows))

        found = []
        if state == BEFORE:
            found += [relation(name, name, "table", table, rows)]
            found += [relation(name, "catalogue.geometrias_geom_idx", "index", index, rows)]
        else:
            for year, share in partition_shares().items():
                found += [relation(name, f"{name}_{year}", "partition", table, rows * share)]
                found += [relation(name, f"{name}_{year}_geom_idx", "index", index, rows * share)]
            made = (2029, 2030, 2031) if state in ("OPT4", "OPT5") else ()
            found += [relation(name, f"{name}_{year}", "partition", 0, 0) for year in made]
            found += [relation(name, f"{name}_default", "partition", 0, 0)]
        if view:
            found += [relation("catalogue.search_names", "catalogue.search_names", "view", view, rows)]
        found += [relation("catalogue.annotations", "catalogue.annotations", "table", 110, rows * 0.1)]
        found += [relation("catalogue.edits", "catalogue.edits", "table", 200, 320)]
        return tuple(found)

    def refreshes(self, state: str, size: float, jitter: float) -> tuple[Refresh, ...]:
        if state not in ("OPT3", "OPT4", "OPT5"):
            return ()
        scheduled = state == "OPT5" and self.refresh_interval_s is not None
        return (
            Refresh(
                view="catalogue.search_names",
                rows=int(self.rows * size),
                seconds=(0.1 + self.refresh_s * self.rows / 300_000 * size) * jitter,
                schedule="*/5 * * * *" if scheduled else None,
                interval_s=self.refresh_interval_s if scheduled else None,
            ),
        )

    def planning(self, state: str, size: float, jitter: float) -> tuple[Planning, ...]:
        partitions = 1 if state == BEFORE else 15 if state in ("OPT1", "OPT2", "OPT3") else 18
        counts = [partitions]
        if state == self.states[-1] and size == self.sizes[0]:
            counts += [64, 128, 256]
        return tuple(
            Planning(partitions=count, median_ms=(0.4 + 0.021 * count) * jitter, query="window_and_box")
            for count in counts
        )


def partition_shares() -> dict[str | None, float]:
    """Shares of the years of valid time, 2015 to 2028: day 5114 * u^0.6 for an even u, as the demo draws them."""
    edges = [min((date(year, 1, 1) - date(2015, 1, 1)).days / 5114, 1.0) ** (1 / 0.6) for year in range(2015, 2030)]
    return {str(2015 + n): end - start for n, (start, end) in enumerate(pairwise(edges))}


def scaled(latency: Latency, times: float) -> Latency:
    return Latency(**{name: value * times for name, value in latency.to_dict().items()})


def measured(**fields: Any) -> Measured:
    """The demo catalogue, or one that differs in these fields of ``Catalogue``."""
    return Catalogue(**fields).measured()
