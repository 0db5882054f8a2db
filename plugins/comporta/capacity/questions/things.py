"""What there will be: rows, bytes by table, partition and index, partitions to come, and how long the planner takes with them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import date

import numpy as np

from comporta.capacity.model import BEFORE, Answer, RelationSize, Series
from comporta.capacity.models import Array, Draws
from comporta.capacity.questions.disk import database
from comporta.capacity.questions.outlook import Outlook, band, known, total
from comporta.capacity.questions.told import Told
from comporta.capacity.questions.wording import count, dated, in_bytes, in_ms, in_state, number, spread, unknown

YEAR = re.compile(r"(?:^|_)(\d{4})$")
LARGEST = 6  # partitions shown one by one


def rows(outlook: Outlook) -> Told:
    """Rows of each table and of all together at the end, beside what was recorded; partitions by valid time; bytes."""
    told, target = Told(), outlook.measured.target
    if outlook.end == outlook.now:
        told.answers.append(unknown("rows", "rows", "", "", outlook.short))
        return told
    last = band(outlook.rows[-1])
    now = sum(history.rows for history in target.histories)
    times = f", {last.value / now:.1f} times as many" if now else ""
    told.answers.append(
        number(
            "rows",
            "rows",
            "",
            f"{spread(last)} rows on {outlook.end}; now {count(now)}{times}.",
            outlook.rows[-1],
            "rows",
        )
    )
    told.draw("rows", outlook.line("all", outlook.rows, "rows"))
    for history in target.histories:
        growth = known(outlook.fitted.growth.get(history.table))
        if growth is None:
            continue
        ahead = growth.rows(outlook.days, outlook.scenario.growth)
        monthly = growth.per_month(outlook.end, outlook.scenario.growth)
        told.draw("rows", _recorded(history.table, growth.months, growth.added, growth.rows_now, growth.until))
        told.draw("rows", outlook.line(history.table, ahead, "rows"))
        told.answers.append(
            number(
                "rows",
                history.table,
                "",
                f"{history.table}: {spread(band(ahead[-1]))} rows on {outlook.end}, {growth.verdict} ({growth.form}), "
                f"{spread(band(monthly))} more a month by then.",
                ahead[-1],
                "rows",
            )
        )
    _partition_rows(outlook, told)
    _bytes(outlook, told)
    return told


def partitions(outlook: Outlook) -> Told:
    """How many partitions there will be, until when those that stand suffice, and how long the planner takes with them."""
    told = Told()
    facts = outlook.measured.facts_of(outlook.release)
    leaves = _leaves(facts[0].relations) if facts else {}
    for table, years in leaves.items():
        told.answers.append(_horizon(outlook, table, years))
        each_day = partitions_on(outlook, years)
        told.draw("partitions", outlook.line(table, Draws.exactly(each_day), "partitions"))
    _planning(outlook, told, max(leaves.values(), key=len, default=()))
    return told


def partitions_on(outlook: Outlook, years: Sequence[int | None]) -> Array:
    """Partitions on each day, when new years are made so far ahead as the target is told to; at least those that stand."""
    newest = max(_years(years), default=outlook.now.year)
    ahead, lead = outlook.measured.target.partition_horizon_years, _lead(outlook)
    to_come = [0 if ahead is None else max(0, day.year + lead + ahead - newest) for day in outlook.days]
    return np.array(to_come, dtype=float) + len(years)


def _horizon(outlook: Outlook, table: str, years: Sequence[int | None]) -> Answer:
    """Until when the partitions that stand suffice, should nobody make new ones."""
    ahead, lead = outlook.measured.target.partition_horizon_years, _lead(outlook)
    newest, known_years = max(_years(years), default=None), len(years)
    objective = "a partition for every row before it comes"
    if newest is None:
        return unknown("partitions", table, outlook.release, objective, "no partition is named for a year")
    first_without = date(newest + 1 - lead, 1, 1)
    then = int(partitions_on(outlook, years)[-1])
    when = float(max((first_without - outlook.now).days, 0)) if first_without <= outlook.end else np.inf
    made = (
        f"kept {ahead} years ahead there are {then} on {outlook.end}, now {known_years}"
        if ahead is not None
        else f"there are {known_years}, and nothing says how far ahead new ones are made"
    )
    return dated(
        outlook,
        Draws.exactly(when),
        question="partitions",
        subject=table,
        state=outlook.release,
        objective=objective,
        holds=f"{table}: the partitions that stand (to {newest}) suffice without new ones",
        also=f"{made[0].upper()}{made[1:]}."
        + (
            f" {outlook.end.year} is {outlook.end.year - newest} years beyond them."
            if outlook.end.year > newest
            else ""
        ),
        amount=band(Draws.exactly(float(then))),
        unit="partitions",
        assumptions=(f"rows lie as far ahead in valid time as now: {lead} years",),
    )


def _planning(outlook: Outlook, told: Told, years: Sequence[int | None]) -> None:
    limit = outlook.plan.objectives.planning_ms
    objective = f"planning within {limit:g} ms"
    for state in dict.fromkeys((BEFORE, outlook.release)):
        model = outlook.fitted.planning_ms.get(state)
        if model is None:
            told.answers.append(
                unknown("planning", "planning", state, objective, f"not measured {in_state(state, outlook.release)}")
            )
            continue
        standing = float(max(model.x_low, 1.0))
        each_day = np.full(len(outlook.days), standing) if state == BEFORE else partitions_on(outlook, years)
        time = model.at(each_day)
        counts = np.unique(np.geomspace(1, 16_384, 120).round())
        first = _first_over(counts, model.at(counts), limit)
        carries = f"{count(first)} partitions" if np.isfinite(first) else f"more than {count(counts[-1])} partitions"
        told.answers.append(
            dated(
                outlook,
                outlook.crosses(time, limit),
                question="planning",
                subject="planning",
                state=state,
                objective=objective,
                holds=f"{in_state(state, outlook.release)}, the slowest query of the mix is planned within {limit:g} ms",
                also=f"It takes {in_ms(float(time.value[0]))} now."
                if state == BEFORE
                else f"{in_ms(float(time.value[0]))} now, {in_ms(float(time.value[-1]))} with the {each_day[-1]:.0f} "
                f"partitions of {outlook.end}; the limit is reached with {carries}.",
                amount=band(time[-1]),
                unit="ms",
                assumptions=(f"measured with up to {model.x_high:.0f} partitions",),
            )
        )
        told.draw("planning", outlook.line(state, time, "ms"))
        told.days[state], told.now[state] = outlook.crosses(time, limit), time[0]
    if "planning" in told.series:
        told.draw("planning", outlook.level("objective", limit, "ms"))


def _first_over(x: Array, value: Draws, limit: float) -> float:
    """The first x at which the central value exceeds the limit; ``inf`` for none of them."""
    over = np.flatnonzero(value.value > limit)
    return float(x[over[0]]) if over.size else float("inf")


def _partition_rows(outlook: Outlook, told: Told) -> None:
    found = {key: known(growth) for key, growth in outlook.fitted.partition_growth.items()}
    ahead = {
        key: growth.rows(outlook.days, outlook.scenario.growth) for key, growth in found.items() if growth is not None
    }
    largest = sorted(ahead, key=lambda key: -float(ahead[key].value[-1]))[:LARGEST]
    for table, partition in largest:
        told.draw("partition_rows", outlook.line(f"{table} {partition}", ahead[table, partition], "rows"))
    if largest:
        table, partition = largest[0]
        last = ahead[table, partition][-1]
        told.answers.append(
            number(
                "partition_rows",
                f"{table} {partition}",
                outlook.release,
                f"the largest partition on {outlook.end} is {partition} of {table}, with {spread(band(last))} rows.",
                last,
                "rows",
            )
        )


def _bytes(outlook: Outlook, told: Told) -> None:
    whole = database(outlook)
    if whole is not None:
        told.answers.append(
            number(
                "bytes",
                "database",
                outlook.release,
                f"the database takes {spread(band(whole[-1]), in_bytes)} on {outlook.end}, "
                f"{in_bytes(float(whole.value[0]))} with the rows of today.",
                whole[-1],
                "bytes",
            )
        )
        told.draw("bytes", outlook.line("database", whole, "bytes"))
    facts = outlook.measured.facts_of(outlook.release)
    kinds: dict[tuple[str, str], list[Draws]] = defaultdict(list)
    for relation in facts[0].relations if facts else ():
        model = outlook.fitted.relation_bytes.get((outlook.release, relation.name))
        if model is not None:
            kinds[relation.table, relation.kind].append(model.at(outlook.facts_rows))
    summed = {key: total(parts) for key, parts in kinds.items()}
    for (table, kind), taken in sorted(summed.items(), key=lambda item: -float(item[1].value[-1])):
        some = len(kinds[table, kind])
        what = f"{table}, {some} {kind if some == 1 else _plural(kind)}"
        told.answers.append(
            number(
                "bytes",
                f"{table} {kind}",
                outlook.release,
                f"{what}: {spread(band(taken[-1]), in_bytes)} on {outlook.end}, {in_bytes(float(taken.value[0]))} now.",
                taken[-1],
                "bytes",
            )
        )
        told.draw("bytes", outlook.line(f"{table} {kind}", taken, "bytes"))


def _plural(kind: str) -> str:
    return "indexes" if kind == "index" else f"{kind}s"


def _leaves(relations: Sequence[RelationSize]) -> dict[str, tuple[int | None, ...]]:
    """By table the years that its partitions are named for, None for one that is not named for a year."""
    found: dict[str, list[int | None]] = defaultdict(list)
    for relation in relations:
        if relation.kind == "partition":
            year = YEAR.search(relation.name)
            found[relation.table].append(int(year[1]) if year else None)
    return {table: tuple(years) for table, years in found.items()}


def _years(years: Sequence[int | None]) -> list[int]:
    return [year for year in years if year is not None]


def _lead(outlook: Outlook) -> int:
    """How many years ahead of today the newest row lies in valid time."""
    newest = [
        int(year[1])
        for history in outlook.measured.target.histories
        for month in history.months
        if month.partition and (year := YEAR.search(month.partition))
    ]
    return max(max(newest, default=outlook.now.year) - outlook.now.year, 0)


def _recorded(table: str, months: Sequence[date], added: Sequence[int], rows_now: int, until: date) -> Series:
    """Rows at the start of each recorded month, counted back from what there is."""
    ends = rows_now - np.concatenate([np.cumsum(np.array(added[::-1], dtype=float))[::-1], [0.0]])
    x = [*(month.isoformat() for month in months), until.isoformat()]
    none = (None,) * len(x)
    return Series(name=f"{table} · recorded", x=tuple(x), value=tuple(ends.tolist()), low=none, high=none, unit="rows")
