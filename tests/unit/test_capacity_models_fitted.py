"""All that a run measured becomes one set of models, quickly, and with a report of each."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime

import numpy as np
import pytest

from comporta.capacity.model import (
    BEFORE,
    History,
    Latency,
    Measured,
    Mix,
    MonthCount,
    Planning,
    Refresh,
    RelationSize,
    RungResult,
    StateFacts,
    TargetFacts,
)
from comporta.capacity.models import Fitted, fit
from comporta.release.capacity import CapacityPlan

STATES = (BEFORE, "opt1", "opt3")
SPEED = {BEFORE: 300.0, "opt1": 450.0, "opt3": 700.0}
GIB = 2**30


def rate(state: str, clients: int, size: float) -> float:
    return SPEED[state] * size**-0.3 * clients / (1 + 0.2 * (clients - 1) + 0.002 * clients * (clients - 1))


def rungs() -> tuple[RungResult, ...]:
    random = np.random.default_rng(11)
    found = []
    for state in STATES:
        whole = state != "opt1"
        for size in (1.0, 2.0, 4.0) if whole else (1.0, 2.0):
            for clients in (1, 2, 4, 8, 16) if whole else (4,):
                for number in (1, 2):
                    x = rate(state, clients, size) * float(np.exp(0.04 * random.standard_normal()))
                    mean = 1000 * clients / x
                    found.append(
                        RungResult(
                            state=state,
                            size=size,
                            clients=clients,
                            round=number,
                            rows=int(300_000 * size),
                            seconds=4,
                            transactions=int(4 * x),
                            failed=0,
                            throughput_per_s=x,
                            latency=Latency(mean_ms=mean, p50_ms=0.6 * mean, p95_ms=3 * mean, p99_ms=6 * mean),
                            by_transaction={},
                            calls={},
                            wal_bytes=int(4 * x * 1200),
                        )
                    )
    return tuple(found)


def facts(state: str, size: float) -> StateFacts:
    rows = int(300_000 * size)
    relations = [
        RelationSize(
            table="catalogue.geometrias", name=f"catalogue.part_{k}", kind="partition", bytes=10 * rows + k, rows=-1
        )
        for k in range(30)
    ]
    return StateFacts(
        state=state,
        size=size,
        rows=rows,
        database_bytes=50_000_000 + 700 * rows,
        relations=(
            RelationSize(
                table="catalogue.geometrias", name="catalogue.geometrias", kind="table", bytes=400 * rows, rows=rows
            ),
            *relations,
        ),
        refreshes=(
            Refresh(view="catalogue.search", rows=rows, seconds=1e-5 * rows, schedule="0 * * * *", interval_s=3600),
        ),
        planning=tuple(Planning(partitions=n, median_ms=0.4 + 0.02 * n, query="read_map") for n in (16, 64, 128)),
        connection_bytes=9_000_000,
        apply_s=None if state == BEFORE else 2e-5 * rows,
    )


def measured() -> Measured:
    months = tuple(
        MonthCount(month=date(2019 + k // 12, k % 12 + 1, 1), rows=10 * (2 * k + 1) + 5 * (k % 3), partition=str(part))
        for k in range(95)
        for part in range(2015, 2027)
    )
    history = History(
        table="catalogue.geometrias",
        column="created_at",
        months=months,
        rows=sum(month.rows for month in months),
        until=datetime(2026, 11, 20, tzinfo=UTC),
    )
    target = TargetFacts(
        target="demo",
        at=datetime(2026, 11, 20, tzinfo=UTC),
        database_bytes=GIB,
        cluster_bytes=2 * GIB,
        disk_total_bytes=100 * GIB,
        disk_free_bytes=50 * GIB,
        max_connections=100,
        connections_peak=20,
        shared_buffers_bytes=GIB // 8,
        memory_bytes=8 * GIB,
        wal_bytes_per_s=None,
        max_wal_bytes=GIB,
        histories=(history,),
        relations=(),
    )
    mix = Mix(recorded=False, since=None, calls_per_s=None, transactions=(), covered_calls=0, covered_time=0)
    stands = tuple(facts(state, size) for state in STATES for size in (1.0, 2.0, 4.0))
    return Measured(states=STATES, target=target, mix=mix, rungs=rungs(), facts=stands)


@pytest.fixture(scope="module")
def models() -> Fitted:
    began = time.process_time()
    found = fit(measured(), CapacityPlan())
    assert time.process_time() - began < 5
    return found


def test_every_state_has_its_performance_in_the_order_of_the_release(models: Fitted) -> None:
    assert tuple(models.performance) == STATES
    for state, model in models.performance.items():
        assert model.throughput(8, 2.0).value == pytest.approx(rate(state, 8, 2.0), rel=0.1)


def test_a_state_between_says_whose_shape_it_took(models: Fitted) -> None:
    report = next(each for each in models.reports if each.subject.endswith(", opt1"))
    assert "the shape of" in report.form
    assert "not enough data for a test" in report.why


def test_what_stands_still_is_fitted_by_state(models: Fitted) -> None:
    assert models.relation_bytes[BEFORE, "catalogue.geometrias"].at(2_400_000).value == pytest.approx(9.6e8, rel=0.05)
    assert models.database_bytes["opt3"].at(2_400_000).value == pytest.approx(5e7 + 700 * 2.4e6, rel=0.05)
    assert models.refresh_s["opt3", "catalogue.search"].at(2_400_000).value == pytest.approx(24, rel=0.15)
    assert models.planning_ms["opt3"].at(256).value == pytest.approx(0.4 + 0.02 * 256, rel=0.15)
    assert models.apply_s["opt1"].at(2_400_000).value == pytest.approx(48, rel=0.15)
    assert BEFORE not in models.apply_s
    assert models.memory_bytes["opt3"].at([0, 100]).value == pytest.approx([GIB / 8, GIB / 8 + 9e8], rel=0.1)
    assert models.wal_bytes["opt3"].at(8.0).value == pytest.approx(1200, rel=0.2)


def test_growth_is_told_by_table_and_by_partition(models: Fitted) -> None:
    whole = models.growth["catalogue.geometrias"]
    assert (whole.verdict, whole.form) == ("growing", "power")
    parts = [model.rows(date(2029, 12, 31)).value for (_, _), model in models.partition_growth.items()]
    assert len(parts) == 12
    assert sum(parts) == pytest.approx(whole.rows(date(2029, 12, 31)).value, rel=0.05)


def test_the_same_measurements_give_the_same_reports(models: Fitted) -> None:
    again = fit(measured(), CapacityPlan())
    assert again.reports == models.reports


def test_every_model_in_use_was_tested_or_says_that_it_was_not(models: Fitted) -> None:
    assert all(report.held_out or report.why for report in models.reports)
    tested = [report for report in models.reports if report.held_out]
    assert {report.subject.split(",")[0] for report in tested} >= {"throughput", "p95", "planning time"}


def test_nothing_measured_is_no_model_and_no_failure() -> None:
    empty = Measured(
        states=STATES,
        target=measured().target.model_copy(update={"histories": ()}),
        mix=measured().mix,
        rungs=(),
        facts=(),
    )
    found = fit(empty, CapacityPlan())
    assert (found.performance, found.growth, found.wal_bytes) == ({}, {}, {})
    assert all("not enough data" in report.why for report in found.reports)
