"""A forecast, fits and a calibration told by hand, beside the catalogue of ``tests.capacity_data``: what reports are made of."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from tests.capacity_data import GB, LAWS, NOW, Catalogue

from comporta.capacity.compared import Calibration, Compared, NotCompared
from comporta.capacity.model import (
    BEFORE,
    Answer,
    Band,
    FitReport,
    Forecast,
    HeldOut,
    Measured,
    Parameter,
    Scenario,
    Series,
)

UNTIL = date(2029, 12, 31)
STATES = Catalogue().states
_MONTHS = tuple(date(2026 + (10 + n) // 12, (10 + n) % 12 + 1, 30 if (10 + n) % 12 != 1 else 28) for n in range(38))


def measured(**fields: Any) -> Measured:
    return Catalogue(**fields).measured()


def over_time(name: str, unit: str, start: float, yearly: float, spread: float = 0.12) -> Series:
    """Grows by ``yearly`` a year, the band opening to so much at the end."""
    value = tuple(start + yearly * nth / 12 for nth in range(len(_MONTHS)))
    opening = [1 + spread * nth / len(_MONTHS) for nth in range(len(_MONTHS))]
    return Series(
        name=name,
        x=tuple(each.isoformat() for each in _MONTHS),
        value=value,
        low=tuple(each / by for each, by in zip(value, opening, strict=True)),
        high=tuple(each * by for each, by in zip(value, opening, strict=True)),
        unit=unit,
    )


def over(name: str, unit: str, points: dict[float, float], spread: float = 0.1) -> Series:
    """Values at places, each with the same relative band."""
    return Series(
        name=name,
        x=tuple(points),
        value=tuple(points.values()),
        low=tuple(each * (1 - spread) for each in points.values()),
        high=tuple(each * (1 + spread) for each in points.values()),
        unit=unit,
    )


def _ladders() -> dict[str, tuple[Series, ...]]:
    throughput, latency = [], []
    for state in (BEFORE, STATES[-1]):
        for size in (1.0, 2.0, 4.0):
            law, name, clients = LAWS[state], f"{state} · {size:g}x", (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
            throughput.append(over(name, "/s", {each: law.throughput(each, size) for each in clients}))
            latency.append(over(name, "ms", {each: law.latency(each, size).p95_ms for each in clients}, 0.2))
    return {"throughput": tuple(throughput), "latency": tuple(latency)}


def series() -> dict[str, tuple[Series, ...]]:
    return {
        "rows": (
            over_time("catalogue.geometrias", "rows", 300_000, 82_000),
            over_time("catalogue.annotations", "rows", 30_000, 8_000),
        ),
        "disk": tuple(
            over_time(state, "bytes", 18 * GB - nth * GB // 2, (5 - 0.5 * nth) * GB) for nth, state in enumerate(STATES)
        ),
        "p95": tuple(over_time(state, "ms", 180 / (nth + 1), 90 / (nth + 1), 0.4) for nth, state in enumerate(STATES)),
        "partitions": (over_time("catalogue.geometrias", "partitions", 18, 1, 0.0),),
        "planning": (over_time("before", "ms", 0.4, 0.0), over_time("OPT5", "ms", 0.8, 0.02)),
        "refresh": (over_time("catalogue.search_names · OPT5", "s", 1.5, 0.4),),
        "bytes": (
            over_time("database", "bytes", 3.1e8, 0.9e8),
            over_time("catalogue.annotations table", "bytes", 3.3e6, 1e6),
        ),
        "connections": (over_time("peak", "connections", 22, 6),),
        "memory": (over_time("OPT5", "bytes", 1.3 * GB, 0.1 * GB),),
        "wal": (over_time("OPT5", "bytes a day", 5.2e9, 1.2e9),),
        **_ladders(),
    }


def objective(verdict: str, what: str, state: str = "OPT5", **more: Any) -> Answer:
    told: dict[str, Any] = {
        "question": what.partition(" ")[0].lower(),
        "subject": "",
        "text": f"{what}: {verdict}.",
        **more,
    }
    return Answer(state=state, verdict=verdict, objective=what, **told)


def bought(state: str, subject: str, months: float | None, text: str = "") -> Answer:
    amount = None if months is None else Band(value=months, low=months - 2, high=months + 4)
    return Answer(
        question="buys",
        subject=subject,
        state=state,
        verdict="met" if amount else "not_enough_data",
        objective="",
        text=text or f"{state} buys {months} months of {subject}.",
        amount=amount,
        unit="months",
    )


def objectives() -> tuple[Answer, ...]:
    return (
        objective(
            "met_until",
            "p95 at most 250 ms",
            date=date(2028, 4, 12),
            low=date(2027, 11, 3),
            high=date(2029, 1, 20),
            assumptions=("the load grows with the rows",),
        ),
        objective("met", "disk at most 85 % full", low=date(2029, 6, 1)),
        objective("not_met", "8 clients at 250 ms", amount=Band(value=5.2, low=4.4, high=6.1), unit="clients"),
        objective("not_enough_data", "planning at most 20 ms", why="fewer than three counts of partitions"),
    )


def forecast(**more: Any) -> Forecast:
    told: dict[str, Any] = {
        "now": NOW,
        "scenario": Scenario(until=UNTIL),
        "answers": (
            *objectives(),
            objective("not_met", "p95 at most 250 ms", state=BEFORE),
            *(bought(state, "p95", months) for state, months in zip(STATES[1:], (9, 1, 22, 0, -1), strict=True)),
            *(bought(state, "disk", months) for state, months in zip(STATES[1:], (-2, 11, -3, 0, 0), strict=True)),
            bought("OPT5", "clients", None, "No date on one side."),
        ),
        "series": series(),
        "assumptions": ("other databases do not grow", "the peak is 3 times the mean rate"),
        "verdict": "stop",
        **more,
    }
    return Forecast(**told)


def fits() -> tuple[FitReport, ...]:
    def held_out(what: str, measured: float, ours: float, last: float, linear: float) -> HeldOut:
        naive = {"last rung": last, "linear": linear}
        return HeldOut(
            what=what,
            measured=measured,
            predicted=ours,
            error=abs(ours / measured - 1),
            naive=naive,
            naive_error={name: abs(value / measured - 1) for name, value in naive.items()},
        )

    return (
        FitReport(
            subject="throughput, OPT5",
            form="lam N / (1 + sigma (N-1) + kappa N (N-1))",
            unit="1/s",
            points=30,
            parameters=(Parameter(name="sigma", value=0.18, low=0.16, high=0.2),),
            held_out=(held_out("16 clients", 810, 790, 700, 930),),
            used=True,
            why="nearer than the last rung and the straight line",
        ),
        FitReport(
            subject="p95, OPT5",
            form="mean times ratio",
            unit="ms",
            points=30,
            parameters=(),
            held_out=(held_out("4x rows", 50, 66, 48, 61),),
            used=False,
            why="the last rung was nearer (4 % against 32 %): it is used in its place",
        ),
    )


def calibration() -> Calibration:
    return Calibration(
        run="run-0",
        forecast_on=date(2026, 9, 1),
        report="2026-09-01/capacity-run-0/report.html",
        rollout=77,
        rolled_out_at=datetime(2026, 9, 20, tzinfo=UTC),
        at=datetime(2026, 11, 29, tzinfo=UTC),
        items=(
            Compared(
                what="rows",
                subject="catalogue.geometrias",
                unit="rows",
                predicted=290_000,
                low=280_000,
                high=298_000,
                measured=300_000,
            ),
            Compared(what="mean", subject="read_id", unit="ms", predicted=2, low=1, high=3, measured=2.2, note="means"),
        ),
        not_compared=(NotCompared(what="refresh", why="no view was refreshed since"),),
    )
