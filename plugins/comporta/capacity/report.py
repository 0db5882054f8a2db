"""The STAGE 4 report: what the system carries, until when, what each change buys, and how far these numbers can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Any

from comporta.capacity import plots
from comporta.capacity.compared import Calibration
from comporta.capacity.forecast import brought_nearer
from comporta.capacity.model import BEFORE, Answer, FitReport, Forecast, HeldOut, Latency, Measured
from comporta.capacity.plots import Drawn, Limit
from comporta.release.capacity import CapacityPlan
from comporta.reports.page import Report, write_report

TITLE = "STAGE 4 Results + Performance Report"
NOT_ENOUGH = "not_enough_data"
_BUYS, _DOUBLED = "buys", "growth_doubled"
_WORDS = {"met": "met", "met_until": "met until", "not_met": "not met", NOT_ENOUGH: "not enough data"}
_MONTH_DAYS = 30.44
_BYTES = ("B", "bytes")


def write_capacity_report(
    folder: Path,
    measured: Measured,
    fitted_reports: tuple[FitReport, ...],
    forecast: Forecast,
    doubled: Forecast | None,
    calibration: Calibration | None,
    *,
    name: str,
    title: str,
    run_id: str,
    started: datetime,
    target: str,
    plan: CapacityPlan,
    stopped: Sequence[str],
    now: datetime,
) -> tuple[Report, str]:
    """Write ``report.html`` and ``.json``; returns them and the verdict pass, warn or stop.

    ``calibration`` is how the last forecast did, ``doubled`` the forecast under twice the growth, ``stopped`` why rungs were not
    climbed. An objective of the whole release that cannot be judged is a warning: no data is not good news.
    """
    data = report_data(
        measured,
        fitted_reports,
        forecast,
        doubled,
        calibration,
        name=name,
        title=title,
        run_id=run_id,
        started=started,
        target=target,
        plan=plan,
        stopped=stopped,
    )
    drawn = {
        "ladders": plots.ladders(measured, forecast, plan),
        "compared": _there(plots.transactions(measured), plots.each_change(measured)),
        "size": _there(plots.latency_over_size(measured, plan)),
        "bought": _there(plots.bought(_bought(forecast))),
        "to_come": plots.to_come(forecast, _limits(measured, plan), doubled, measured.states),
    }
    return write_report(folder, "report", "capacity.html.j2", data, drawn, now), str(data["verdict"])


def report_data(
    measured: Measured,
    fitted_reports: tuple[FitReport, ...],
    forecast: Forecast,
    doubled: Forecast | None,
    calibration: Calibration | None,
    *,
    name: str,
    title: str,
    run_id: str,
    started: datetime,
    target: str,
    plan: CapacityPlan,
    stopped: Sequence[str],
) -> dict[str, Any]:
    """All that the page shows, in plain values."""
    objectives = [_shown(each, forecast, plan) for each in _objectives(forecast, measured.release)]
    verdict = _verdict(forecast, objectives)
    return {
        "heading": TITLE,
        "name": name,
        "title": title,
        "run_id": run_id,
        "started": f"{started.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "target": target,
        "release": measured.release,
        "verdict": verdict,
        "sentence": _sentence(verdict, objectives, measured, brought_nearer(forecast.answers, measured.release)),
        "plan": plan.model_dump(mode="json"),
        "objectives": objectives,
        "without": [_shown(each, forecast, plan) for each in _objectives(forecast, BEFORE)],
        "calibration": _calibration(calibration),
        "bought": _months(forecast, measured.states),
        "answers": _answers(forecast, plan),
        "doubled": _doubled(forecast, doubled, measured.release, plan),
        "before_after": _before_after(measured),
        "rungs": _rungs(measured),
        "stopped": list(stopped),
        "mix": measured.mix.to_dict(),
        "production": _production(measured),
        "unlike": [
            {"name": setting, "target": there, "shadow": here}
            for setting, (there, here) in sorted(measured.target.settings_unlike_shadow.items())
        ],
        "fits": [_fit(each) for each in fitted_reports],
        "held_out": _held_out(fitted_reports),
        "tested": _tested(fitted_reports),
        "not_used": [{"subject": each.subject, "why": each.why} for each in fitted_reports if not each.used],
        "assumptions": _assumptions(forecast),
        "forecast": forecast.to_dict(),
    }


def as_answers(forecast: Forecast) -> list[dict[str, Any]]:
    """The answers as the event ``capacity_planned`` holds them."""
    return [
        {"question": each.question, "subject": each.subject, "state": each.state, "verdict": each.verdict,
         "date": each.date.isoformat() if each.date else None}
        for each in forecast.answers
    ]  # fmt: skip


# -- verdicts and dates --------------------------------------------------------------------------------------------------


def _objectives(forecast: Forecast, state: str) -> list[Answer]:
    """The answers with an objective, of a state or of none in particular; those under another growth are told elsewhere."""
    return [
        each for each in forecast.answers if each.objective and each.state in (state, "") and each.question != _DOUBLED
    ]


def _shown(answer: Answer, forecast: Forecast, plan: CapacityPlan) -> dict[str, Any]:
    """An answer as a line of a table; ``kind`` is its colour, which the words say as well."""
    return {
        **answer.to_dict(),
        "kind": _kind(answer, forecast.now, plan),
        "word": _word(answer, forecast),
        "interval": interval(answer, forecast.scenario.until),
        "number": _amount(answer),
    }


def _kind(answer: Answer, now: date, plan: CapacityPlan) -> str:
    if answer.verdict == "met":
        return "pass"
    if answer.verdict == "not_met":
        return "stop"
    if answer.verdict == "met_until" and answer.date is not None:
        return "warn" if _months_between(now, answer.date) < plan.look_ahead_months else "note"
    return "warn"


def _word(answer: Answer, forecast: Forecast) -> str:
    if answer.verdict == "met":
        return f"met until {forecast.scenario.until}"
    if answer.verdict == "met_until" and answer.date is not None:
        return f"met until {answer.date}"
    return _WORDS.get(answer.verdict, answer.verdict)


def interval(answer: Answer, until: date) -> str:
    """The 80 % interval of a date, in words; an end that lies beyond the horizon says so. Empty where there is no date."""
    if answer.date is None and answer.low is None:
        return ""
    low = answer.low.isoformat() if answer.low else f"before {answer.date}"
    return f"{low} .. {answer.high.isoformat() if answer.high else f'after {until}'}"


def _amount(answer: Answer) -> str:
    if answer.amount is None:
        return ""
    value, low, high = (
        in_unit(each, answer.unit) for each in (answer.amount.value, answer.amount.low, answer.amount.high)
    )
    plain = answer.unit.partition(" ")[0] not in _BYTES
    low, high = (each.removesuffix(f" {answer.unit}") if plain else each for each in (low, high))
    return f"{value} ({low} .. {high})"


def in_unit(value: float, unit: str) -> str:
    """A number as people read it; bytes in decimal units."""
    if not math.isfinite(value):
        return "no data"
    if unit.partition(" ")[0] in _BYTES:
        return f"{_bytes(value)} {unit.partition(' ')[2]}".rstrip()
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def _bytes(value: float) -> str:
    for power, name in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g} {name}"
    return f"{value:.0f} B"


def _months_between(start: date, end: date) -> float:
    return (end - start).days / _MONTH_DAYS


def _verdict(forecast: Forecast, objectives: Sequence[Mapping[str, Any]]) -> str:
    blind = not objectives or any(each["verdict"] == NOT_ENOUGH for each in objectives)
    return "warn" if forecast.verdict == "pass" and blind else forecast.verdict


def _sentence(
    verdict: str, objectives: Sequence[Mapping[str, Any]], measured: Measured, nearer: Sequence[Answer]
) -> str:
    if not objectives:
        return "No objective could be judged: too little was measured. The reasons are below."
    counts = [(_WORDS[key], sum(each["verdict"] == key for each in objectives)) for key in _WORDS]
    told = ", ".join(f"{count} {word.replace('met until', 'met for a time')}" for word, count in counts if count)
    ends = {
        "pass": "Nothing stands against going on.",
        "warn": "Read the warnings before going on.",
        "stop": "An objective is not held today, even with the release.",
    }
    what = f"With {measured.release} applied" if measured.release != BEFORE else "As it is"
    lost = (
        f" It brings nearer the day on which one fails: {'; '.join(each.objective for each in nearer)}."
        if nearer
        else ""
    )
    return f"{what}, of {len(objectives)} objectives: {told}.{lost} {ends.get(verdict, '')}".rstrip()


# -- tables --------------------------------------------------------------------------------------------------------------


def _answers(forecast: Forecast, plan: CapacityPlan) -> list[dict[str, Any]]:
    """Every answer, by question."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for each in forecast.answers:
        groups.setdefault(each.question, []).append(_shown(each, forecast, plan))
    return [{"question": question, "answers": its} for question, its in groups.items()]


def _bought(forecast: Forecast) -> list[Answer]:
    return [each for each in forecast.answers if each.question == _BUYS]


def _months(forecast: Forecast, states: Sequence[str]) -> dict[str, Any]:
    """Months bought: a row a change, a column for what they are bought for."""
    its = _bought(forecast)
    subjects = list(dict.fromkeys(each.subject for each in its))
    rows = [
        {"state": state, "cells": [_cell(its, state, subject) for subject in subjects]}
        for state in states
        if any(each.state == state for each in its)
    ]
    return {"subjects": subjects, "rows": rows}


def _cell(answers: Sequence[Answer], state: str, subject: str) -> dict[str, str]:
    """Months, or what is better today where no date moves; amounts above 0 are better."""
    found = next((each for each in answers if (each.state, each.subject) == (state, subject)), None)
    if found is None or found.amount is None:
        return {"number": "", "text": "" if found is None else found.text}
    amount = found.amount
    if found.unit == "months":
        least = "at least " if "at least" in found.text else ""
        return {
            "number": f"{least}{amount.value:+.0f} months",
            "text": f"80 %: {amount.low:+.0f} .. {amount.high:+.0f}",
        }
    if amount.low <= 0 <= amount.high:
        return {"number": "–", "text": "no difference that stands out"}
    better = "better" if amount.value > 0 else "worse"
    return {"number": "–", "text": f"today {in_unit(abs(amount.value), found.unit)} {better}"}


def _doubled(forecast: Forecast, doubled: Forecast | None, state: str, plan: CapacityPlan) -> list[dict[str, Any]]:
    """Each objective at the present growth beside twice that."""
    if doubled is None:
        return []
    twice = {(each.question, each.subject, each.objective): each for each in _objectives(doubled, state)}
    return [
        {"now": _shown(each, forecast, plan), "doubled": _shown(other, doubled, plan)}
        for each in _objectives(forecast, state)
        if (other := twice.get((each.question, each.subject, each.objective)))
    ]


def _before_after(measured: Measured) -> dict[str, Any] | None:
    """Throughput and latency before and after, medians of the rounds, whole and by kind of transaction."""
    pair = plots.compared_rungs(measured)
    if pair is None:
        return None
    before, after = pair
    names = [name for name in before[0].by_transaction if name in after[0].by_transaction]
    whole = [("all, weighted as in the mix", _middle([r.latency for r in before]), _middle([r.latency for r in after]))]
    kinds = [
        (name, _middle([r.by_transaction[name] for r in before]), _middle([r.by_transaction[name] for r in after]))
        for name in names
    ]
    per_s = [median(rung.throughput_per_s for rung in rungs) for rungs in pair]
    return {
        "size": before[0].size,
        "clients": before[0].clients,
        "rows": before[0].rows,
        "per_s": {"before": per_s[0], "after": per_s[1], "ratio": _ratio(per_s[1], per_s[0])},
        "latencies": [
            {"name": name, "before": old, "after": new, "ratio": _ratio(new["p95_ms"], old["p95_ms"])}
            for name, old, new in (*whole, *kinds)
        ],
    }


def _middle(latencies: Sequence[Latency]) -> dict[str, float]:
    return {key: median(each.to_dict()[key] for each in latencies) for key in ("mean_ms", "p50_ms", "p95_ms", "p99_ms")}


def _ratio(new: float, old: float) -> float | None:
    return new / old if old else None


def _rungs(measured: Measured) -> list[dict[str, Any]]:
    order = {state: nth for nth, state in enumerate(measured.states)}
    ordered = sorted(measured.rungs, key=lambda r: (order.get(r.state, len(order)), r.size, r.clients, r.round))
    return [each.to_dict() for each in ordered]


def _fit(report: FitReport) -> dict[str, Any]:
    return report.to_dict()


def _held_out(reports: Sequence[FitReport]) -> list[dict[str, Any]]:
    """Each test on what a model had not seen, ours beside the best of the naive rules."""
    return [_test(report, each) for report in reports for each in report.held_out]


def _tested(reports: Sequence[FitReport]) -> list[dict[str, Any]]:
    """Each model by the kind of test, in the median of its tests: ours beside every naive rule."""
    rows = []
    for report in reports:
        kinds: dict[str, list[HeldOut]] = {}
        for test in report.held_out:
            kinds.setdefault(test.what.partition(":")[0], []).append(test)
        for kind, tests in kinds.items():
            rules = list(dict.fromkeys(rule for test in tests for rule in test.naive_error))
            naive = {rule: median(t.naive_error[rule] for t in tests if rule in t.naive_error) for rule in rules}
            ours = median(test.error for test in tests)
            best = min(naive, key=lambda rule: naive[rule], default=None)
            better = "ours" if best is None or ours <= naive[best] else best
            rows.append(
                {"subject": report.subject, "kind": kind, "tests": len(tests), "error": ours, "naive": naive,
                 "better": better, "used": report.used}
            )  # fmt: skip
    return rows


def _test(report: FitReport, test: HeldOut) -> dict[str, Any]:
    best = min(test.naive_error, key=lambda name: test.naive_error[name], default=None)
    return {
        "subject": report.subject,
        "unit": report.unit,
        "what": test.what,
        "measured": test.measured,
        "predicted": test.predicted,
        "error": test.error,
        "naive": test.naive,
        "naive_error": test.naive_error,
        "best_naive": best,
        "beats_naive": test.beats_naive,
        "used": report.used,
    }


def _calibration(calibration: Calibration | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    rows = [{**each.to_dict(), "error": each.error, "inside": each.inside} for each in calibration.items]
    return {
        "sentence": calibration.sentence,
        "median_error": calibration.median_error,
        "run": calibration.run,
        "report": calibration.report,
        "at": f"{calibration.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        "rows": rows,
        "not_compared": [each.to_dict() for each in calibration.not_compared],
    }


def _production(measured: Measured) -> list[dict[str, str]]:
    """What the target was when it was looked at; what its server did not tell is said to be unknown."""
    facts = measured.target
    rows = sum(history.rows for history in facts.histories)
    told = {
        "rows in the tables that grow": f"{rows:,}",
        "database": _bytes(facts.database_bytes),
        "all databases of the server": _bytes(facts.cluster_bytes),
        "disk": _known_bytes(facts.disk_total_bytes),
        "free on it": _known_bytes(facts.disk_free_bytes),
        "memory": _known_bytes(facts.memory_bytes),
        "connections, most seen": f"{_known(facts.connections_peak)} of {facts.max_connections}",
        "WAL per second": _known_bytes(facts.wal_bytes_per_s),
        "partitions made ahead, years": _known(facts.partition_horizon_years),
    }
    return [{"name": name, "value": value} for name, value in told.items()]


def _known(value: float | None) -> str:
    return "not known" if value is None else f"{value:g}"


def _known_bytes(value: float | None) -> str:
    return "not known" if value is None else _bytes(value)


def _assumptions(forecast: Forecast) -> list[str]:
    """What holds for all of it, then what single answers assume; each once."""
    return list(
        dict.fromkeys((*forecast.assumptions, *(text for each in forecast.answers for text in each.assumptions)))
    )


def _limits(measured: Measured, plan: CapacityPlan) -> dict[str, list[Limit]]:
    """The lines that the plots of what is to come must not pass."""
    facts, objectives = measured.target, plan.objectives
    disk = plan.disk_bytes or facts.disk_total_bytes
    memory = plan.memory_bytes or facts.memory_bytes
    limits = {
        "p95": [Limit(f"objective {objectives.p95_ms:g} ms", objectives.p95_ms)],
        "planning": [Limit(f"objective {objectives.planning_ms:g} ms", objectives.planning_ms)],
        "clients": [Limit(f"objective {objectives.clients} clients", objectives.clients)],
        "connections": [
            Limit(
                f"{objectives.connections_share:.0%} of max_connections",
                facts.max_connections * objectives.connections_share,
            )
        ],
    }
    if disk:
        limits["disk"] = [Limit(f"{objectives.disk_share:.0%} of the disk", disk * objectives.disk_share)]
    if memory:
        limits["memory"] = [Limit(f"{objectives.memory_share:.0%} of memory", memory * objectives.memory_share)]
    intervals = [each.interval_s for facts in measured.facts for each in facts.refreshes if each.interval_s]
    if intervals:
        limits["refresh"] = [
            Limit(f"{objectives.refresh_share:.0%} of the interval", min(intervals) * objectives.refresh_share)
        ]
    return limits


def _there(*drawn: Drawn | None) -> list[Drawn]:
    return [each for each in drawn if each is not None]
