"""What is to come: every question asked of the measurements, under one scenario, with dates and 80 % intervals.

Each answer carries what it takes for granted; what the data cannot carry is said to be unknown, never guessed.
The same measurements give the same forecast, whenever and wherever it is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date

from comporta.capacity.model import BEFORE, Answer, Forecast, Measured, Scenario
from comporta.capacity.models import Fitted
from comporta.capacity.questions.buys import buys
from comporta.capacity.questions.disk import disk_full
from comporta.capacity.questions.load import clients, ladders, p95, throughput
from comporta.capacity.questions.outlook import FAR, Outlook
from comporta.capacity.questions.things import partitions, rows
from comporta.capacity.questions.told import Told
from comporta.capacity.questions.upkeep import apply, connections, refreshes, wal
from comporta.release.capacity import CapacityPlan

OBJECTIVES = ("disk_full", "p95", "clients", "throughput", "connections", "memory", "refresh", "planning")
"""Questions with an objective of the plan: the verdict goes by them."""
UNASKED = ("p50", "p99")
"""Models that the report shows and no question uses."""


def forecast(measured: Measured, fitted: Fitted, plan: CapacityPlan, scenario: Scenario, now: date) -> Forecast:
    """Ask every question; NothingAhead when the scenario ends before ``now``.

    The ``amount`` of an answer is what stands on the last day of the outlook; of p95, clients and throughput it is today's.
    """
    outlook = Outlook.of(measured, fitted, plan, scenario, now)
    compared = {"p95": p95(outlook), "disk": disk_full(outlook), "clients": clients(outlook)}
    told = Told.all(
        [
            *compared.values(),
            throughput(outlook),
            buys(outlook, compared),
            _doubled(outlook) if scenario.growth == 1 else Told(),
            rows(outlook),
            partitions(outlook),
            refreshes(outlook),
            connections(outlook),
            wal(outlook),
            apply(outlook),
            ladders(outlook),
        ]
    )
    return Forecast(
        now=now,
        scenario=scenario,
        answers=tuple(told.answers),
        series={plot: tuple(lines) for plot, lines in told.series.items()},
        assumptions=assumptions(outlook),
        verdict=verdict(told.answers, measured.release, now, plan.look_ahead_months),
    )


def verdict(answers: Iterable[Answer], release: str, now: date, look_ahead_months: int) -> str:
    """``stop``: an objective is not met today, with the release. ``warn``: one will not be within the months looked ahead, the
    release brings its day nearer, or nobody can say. ``pass`` otherwise. What is wrong only before it does not speak against it.
    """
    answers = tuple(answers)
    judged = [answer for answer in answers if answer.question in OBJECTIVES and answer.state in (release, "")]
    if any(answer.verdict == "not_met" for answer in judged):
        return "stop"
    last = months_later(now, look_ahead_months)
    soon = any(answer.date is not None and answer.date <= last for answer in judged)
    silent = not judged or any(answer.verdict == "not_enough_data" for answer in judged)
    return "warn" if soon or silent or brought_nearer(answers, release) else "pass"


def brought_nearer(answers: Iterable[Answer], release: str) -> tuple[Answer, ...]:
    """The objectives that fail sooner with the release than without it, beyond what both intervals leave open."""
    answers = tuple(answers)
    without = {(each.question, each.subject): each for each in answers if each.state == BEFORE}
    return tuple(
        each
        for each in answers
        if each.question in OBJECTIVES
        and each.state == release != BEFORE
        and (before := without.get((each.question, each.subject))) is not None
        and before.verdict in ("met", "met_until")
        and (each.verdict == "not_met" or (each.high is not None and (before.low is None or each.high < before.low)))
    )


def assumptions(outlook: Outlook) -> tuple[str, ...]:
    """What the whole forecast takes for granted, and the models in whose place a naive rule is used."""
    measured, plan, scenario = outlook.measured, outlook.plan, outlook.scenario
    found = ["the target is as fast as the shadow: the ladder was climbed there"]
    found += [
        f"{name} is {there} on the target, {here} on the shadow"
        for name, (there, here) in sorted(measured.target.settings_unlike_shadow.items())
    ]
    mix = measured.mix
    if mix.recorded:
        found.append(
            f"the load is the recorded one: its transactions stand for {mix.covered_calls:.0%} of the calls and "
            f"{mix.covered_time:.0%} of the time"
        )
        found.append(f"the busiest time asks for {plan.peak:g} times the mean rate of {mix.calls_per_s or 0:.3g}/s")
    else:
        found.append("production recorded no load: the shares of config/release.yaml stand in for it")
    found.append("the load grows as the rows do" if plan.load_grows == "with_rows" else "the load does not grow")
    if scenario.growth != 1:
        found.append(f"rows are added {scenario.growth:g} times as fast as the history says")
    if scenario.clients is not None:
        found.append(
            f"{scenario.clients} clients at once, each with its next transaction as soon as the last is answered"
        )
    found += [f"{table} stays as it is: its history is too short to say more" for table in outlook.still]
    largest = max((facts.size for facts in measured.facts), default=1.0)
    reached = float(outlook.size.value.max())
    if reached > largest * 1.05:
        far = " far" if reached > FAR * largest else ""
        found.append(
            f"by {outlook.end} there are {reached:.1f} times the rows of today; measured were {largest:g} times:{far} beyond it"
        )
    if outlook.short:
        found.append(outlook.short)
    found += [
        f"{report.subject}: {report.why}"
        for report in outlook.fitted.reports
        if not report.used and report.held_out and not report.subject.startswith(UNASKED)
    ]
    return tuple(found)


def months_later(day: date, months: int) -> date:
    """The same day so many months later, or the 28th of that month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, 28))


def _doubled(outlook: Outlook) -> Told:
    """The dates of the release if rows were added twice as fast."""
    scenario = outlook.scenario
    faster = Outlook.of(
        replace(outlook.measured, states=(outlook.release,)),
        outlook.fitted,
        outlook.plan,
        scenario.model_copy(update={"growth": 2.0}),
        outlook.now,
    )
    return Told(
        answers=[
            answer.model_copy(
                update={
                    "question": "growth_doubled",
                    "text": f"If growth doubled: {answer.text[:1].lower()}{answer.text[1:]}",
                    "assumptions": (
                        *answer.assumptions,
                        "rows are added twice as fast as the history says",
                    ),
                }
            )
            for question in (p95, disk_full, clients)
            for answer in question(faster).answers
        ]
    )
