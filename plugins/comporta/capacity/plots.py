"""The plots of the STAGE 4 report: what was measured as points, what the models say as a line with its 80 % interval.

Each is legible at the width of a phone: the legend stands below, axes have few and short ticks, and their units.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import combinations
from statistics import median
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from comporta.capacity.model import BEFORE, Answer, Forecast, Measured, RungResult, Series
from comporta.release.capacity import CapacityPlan
from comporta.reports.page import COLOURS, plot_when_seen

_LINES = ("#3b78b5", "#d07a2d", "#7a5aa6", "#2a9d8f", "#a8577e", "#8a8f2a", "#7b8794")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x")
_BANDS_SHOWN = 2  # more bands over each other are a grey cloud; the others are told by the table
_LINES_SHOWN = 8
_WIDE = 30  # from so many times the lowest value on, a linear axis hides the low ones
_FAR = 5  # a limit that is so many times the highest value would press the plot flat
_BYTES = {"B", "bytes", "byte"}
_MEASURED, _RECORDED, _OBJECTIVE = "measured", "recorded", "objective"  # in names of series that are no model
_READ = (
    "Points: each round that was measured. Line and band: the model and its 80 % interval. Grey: beyond the last rung."
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:x|×)")


@dataclass(frozen=True)
class Limit:
    """A horizontal line that must not be passed, in the unit of the plot's series."""

    name: str
    value: float


@dataclass(frozen=True)
class Drawn:
    """A plot with its title, and the sentence under it that says how to read it."""

    title: str
    note: str
    plot: Markup

    def __str__(self) -> str:
        return self.title


# -- the ladder ----------------------------------------------------------------------------------------------------------


def ladders(measured: Measured, forecast: Forecast, plan: CapacityPlan) -> list[Drawn]:
    """Throughput and p95 against clients, one plot a size each: points are rounds, lines what the models say."""
    drawn = []
    for size in sorted({rung.size for rung in measured.rungs}):
        drawn.append(_throughput(measured, forecast, size))
        drawn.append(_latency(measured, forecast, size, plan))
    return drawn


def _throughput(measured: Measured, forecast: Forecast, size: float) -> Drawn:
    figure = _ladder(measured, forecast.series.get("throughput", ()), size, lambda rung: rung.throughput_per_s)
    figure.update_yaxes(title="transactions per second", rangemode="tozero", nticks=6)
    note = f"{_READ} Higher is better."
    return Drawn(f"Throughput, {size:g}x the rows of now", note, _plot(figure))


def _latency(measured: Measured, forecast: Forecast, size: float, plan: CapacityPlan) -> Drawn:
    lines = forecast.series.get("latency", ())
    figure = _ladder(measured, lines, size, lambda rung: rung.latency.p95_ms)
    its = [rung.latency.p95_ms for rung in measured.rungs if rung.size == size]
    its += [value for each in lines if _size_of(each.name) == size for value in each.value if value is not None]
    _limit(figure, Limit("objective", plan.objectives.p95_ms), _clients_of(measured, size))
    figure.update_yaxes(title="p95, milliseconds", **_logarithmic([*its, plan.objectives.p95_ms]))
    note = "Of 100 transactions 95 were quicker. The scale is logarithmic. Grey: beyond the last rung. Lower is better."
    return Drawn(f"Latency, {size:g}x the rows of now", note, _plot(figure))


def _ladder(measured: Measured, lines: Sequence[Series], size: float, value: Any) -> go.Figure:
    figure = go.Figure()
    seen, modelled = _clients_of(measured, size), [1.0]
    for nth, state in enumerate(_ends(measured)):
        colour = _LINES[nth]
        for series in lines:
            of = _state_of(series.name, measured.states), _size_of(series.name)
            if of == (state, size) and _MEASURED not in series.name:
                _banded(figure, series, f"{_called(state)}, model", colour)
                modelled += [float(x) for x in series.x]
        rungs = [rung for rung in measured.of(state) if rung.size == size]
        figure.add_scatter(
            mode="markers",
            name=f"{_called(state)}, measured",
            x=[rung.clients for rung in rungs],
            y=[value(rung) for rung in rungs],
            hovertemplate="%{x} clients: %{y:.4g}<extra></extra>",
            marker={"size": 9, "symbol": _SYMBOLS[nth], "color": colour, "line": {"width": 1, "color": "#fff"}},
        )
    _clients_axis(figure, seen, max(modelled))
    return figure


def latency_over_size(measured: Measured, plan: CapacityPlan) -> Drawn | None:
    """p95 against rows, at the rung of the ladder that is nearest to the clients of the objective."""
    sizes = {rung.size for rung in measured.rungs}
    if len(sizes) < 2:
        return None
    climbed = {rung.clients for state in _ends(measured) for rung in measured.of(state)}
    clients = min(climbed, key=lambda each: (abs(math.log(each / plan.objectives.clients)), each))
    figure = go.Figure()
    shown: list[float] = []
    for nth, state in enumerate(_ends(measured)):
        by_size = _by(lambda rung: rung.size, [rung for rung in measured.of(state) if rung.clients == clients])
        rows = [median(rung.rows for rung in rungs) for rungs in by_size.values()]
        middle = [median(rung.latency.p95_ms for rung in rungs) for rungs in by_size.values()]
        ends = [[rung.latency.p95_ms for rung in rungs] for rungs in by_size.values()]
        figure.add_scatter(
            mode="lines+markers",
            name=_called(state),
            x=rows,
            y=middle,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [max(each) - at for each, at in zip(ends, middle, strict=True)],
                "arrayminus": [at - min(each) for each, at in zip(ends, middle, strict=True)],
            },
            line={"color": _LINES[nth], "dash": _DASHES[nth]},
            marker={"size": 9, "symbol": _SYMBOLS[nth], "color": _LINES[nth]},
            hovertemplate="%{x:,.0f} rows: %{y:.4g} ms<extra></extra>",
        )
        shown += [value for each in ends for value in each]
    rows_seen = [rung.rows for rung in measured.rungs]
    _limit(figure, Limit("objective", plan.objectives.p95_ms), (min(rows_seen), max(rows_seen)))
    figure.update_xaxes(title="rows", nticks=5, tickformat="~s")
    figure.update_yaxes(title="p95, milliseconds", **_logarithmic([*shown, plan.objectives.p95_ms]))
    note = "As measured: the median of the rounds, the bar from the lowest to the highest. The scale is logarithmic."
    return Drawn(f"Latency against size, {clients} clients", note, _plot(figure))


def transactions(measured: Measured) -> Drawn | None:
    """p95 of each kind of transaction before and after the release, at the smallest size and the highest rung both climbed."""
    pair = compared_rungs(measured)
    if pair is None:
        return None
    (before, after), names = pair, list(pair[0][0].by_transaction)
    figure = go.Figure()
    shown: list[float] = []
    for nth, (rungs, state) in enumerate(((before, BEFORE), (after, measured.release))):
        values = [_median_p95(rungs, name) for name in names]
        shown += [value for value in values if value is not None]
        figure.add_scatter(
            mode="markers",
            name=_called(state),
            x=values,
            y=[_text(name) for name in names],
            hovertemplate="%{y}: %{x:.3g} ms<extra></extra>",
            marker={"size": 12, "symbol": _SYMBOLS[nth], "color": _LINES[nth]},
        )
    figure.update_xaxes(title="p95, milliseconds", **_logarithmic(shown))
    figure.update_yaxes(categoryorder="array", categoryarray=[_text(name) for name in names], autorange="reversed")
    at = f"{before[0].size:g}x rows, {before[0].clients} clients"
    note = "The scale is logarithmic. Further to the left is better."
    return Drawn(f"Each kind of transaction, {at}", note, _plot(figure, 150 + 26 * len(names)))


def compared_rungs(measured: Measured) -> tuple[list[RungResult], list[RungResult]] | None:
    """The rounds before and after, at the smallest size and the most clients of it that both states were measured with."""
    before, after = (_by(lambda r: (r.size, r.clients), measured.of(state)) for state in (BEFORE, measured.release))
    common = before.keys() & after.keys()
    if not common or measured.release == BEFORE:
        return None
    size = min(each[0] for each in common)
    rung = max(each for each in common if each[0] == size)
    return before[rung], after[rung]


def each_change(measured: Measured) -> Drawn | None:
    """p95 and throughput after each change, at the one rung that every state was measured at."""
    rungs = {state: _by(lambda r: (r.size, r.clients), measured.of(state)) for state in measured.states}
    rungs = {state: found for state, found in rungs.items() if found}
    if len(rungs) < 3:
        return None
    common = set.intersection(*(set(found) for found in rungs.values()))
    if not common:
        return None
    size, clients = min(common)
    figure = go.Figure()
    for nth, (name, of) in enumerate((("p95, ms", _p95), ("throughput, per s", _per_s))):
        values = [median(of(rung) for rung in found[(size, clients)]) for found in rungs.values()]
        figure.add_bar(
            name=name,
            x=list(map(_text, rungs)),
            y=[value / values[0] * 100 if values[0] else None for value in values],
            customdata=values,
            hovertemplate="%{x}: %{customdata:.4g}, %{y:.0f} % of before<extra></extra>",
            marker={"color": _LINES[nth], "pattern": {"shape": "/" if nth else ""}},
        )
    figure.add_hline(y=100, line={"dash": "dot", "width": 1, "color": "#888"})
    figure.update_layout(barmode="group")
    figure.update_yaxes(title="percent of before", rangemode="tozero", nticks=6)
    figure.update_xaxes(title="state: the last change that stands", tickfont={"size": 11})
    note = "Median of the rounds, each change standing on those before it."
    return Drawn(f"After each change, {size:g}x rows, {clients} clients", note, _plot(figure))


def _p95(rung: RungResult) -> float:
    return rung.latency.p95_ms


def _per_s(rung: RungResult) -> float:
    return rung.throughput_per_s


def _median_p95(rungs: Sequence[RungResult], name: str) -> float | None:
    found = [rung.by_transaction[name].p95_ms for rung in rungs if name in rung.by_transaction]
    return median(found) if found else None


# -- what each change buys -----------------------------------------------------------------------------------------------


def bought(answers: Sequence[Answer]) -> Drawn | None:
    """Months that each change buys, by what they are bought for, with their 80 % interval."""
    told = [each for each in answers if each.amount is not None and each.unit == "months"]
    if not told:
        return None
    figure = go.Figure()
    states = list(dict.fromkeys(each.state for each in told))
    subjects = list(dict.fromkeys(each.subject for each in told))
    for nth, subject in enumerate(subjects):
        its = {each.state: each.amount for each in told if each.subject == subject and each.amount}
        aside = (nth - (len(subjects) - 1) / 2) * 0.2  # so that intervals of one change do not cover each other
        figure.add_scatter(
            mode="markers",
            name=_text(subject),
            y=[states.index(state) + aside for state in its],
            x=[amount.value for amount in its.values()],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [max(amount.high - amount.value, 0) for amount in its.values()],
                "arrayminus": [max(amount.value - amount.low, 0) for amount in its.values()],
            },
            marker={"size": 10, "symbol": _SYMBOLS[nth % len(_SYMBOLS)], "color": _LINES[nth % len(_LINES)]},
            customdata=[_text(state) for state in its],
            hovertemplate="%{customdata}: %{x:.1f} months<extra></extra>",
        )
    figure.add_vline(x=0, line={"dash": "dot", "width": 1, "color": "#888"})
    figure.update_xaxes(title="months bought (less than 0: lost)", nticks=6)
    figure.update_yaxes(
        tickvals=list(range(len(states))), ticktext=list(map(_text, states)), range=[len(states) - 0.5, -0.5]
    )
    note = "The bar is the 80 % interval. What is not here moves no date within the forecast: see the table."
    return Drawn("Months that each change buys", note, _plot(figure, 190 + 44 * len(states)))


# -- what is to come -----------------------------------------------------------------------------------------------------


_PLOTS = {
    "rows": ("Rows", "rows"),
    "disk": ("Disk", "bytes"),
    "p95": ("p95 at the load of then", "p95, milliseconds"),
    "clients": ("Clients served with p95 within its objective", "clients at once"),
    "bytes": ("Bytes with the release", "bytes"),
    "partition_rows": ("Rows of the largest partitions", "rows"),
    "partitions": ("Partitions", "partitions"),
    "planning": ("Planning of the slowest query of the mix", "milliseconds"),
    "refresh": ("Refresh of the views", "seconds"),
    "connections": ("Connections", "connections"),
    "memory": ("Memory", "bytes"),
    "wal": ("WAL", "bytes a day"),
    "apply": ("Applying the release", "seconds"),
}
_LADDERS = ("throughput", "latency")
_DOUBLED = ("rows", "disk", "p95", "clients")


def to_come(
    forecast: Forecast, limits: Mapping[str, Sequence[Limit]], doubled: Forecast | None, states: Sequence[str]
) -> list[Drawn]:
    """Everything that is forecast, with its limits; what is not named above is drawn as well."""
    keys = [*_PLOTS, *(key for key in forecast.series if key not in _PLOTS and key not in _LADDERS)]
    drawn = []
    for key in keys:
        lines = [each for each in forecast.series.get(key, ()) if _known(each)]
        told = [each for each in lines if _OBJECTIVE not in each.name]
        if not told:
            continue
        told, small = _largest(told)
        title, unit = _PLOTS.get(key, (key.replace("_", " "), ""))
        named = limits.get(key) or [
            Limit(_text(each.name), max(value for value in each.value if value is not None))
            for each in lines
            if _OBJECTIVE in each.name
        ]
        twice = _twice(doubled.series.get(key, ()), states) if doubled and key in _DOUBLED else ()
        # What a change takes to apply is its own; everything else by state holds with all changes up to it.
        called = () if key == "apply" else states
        plot = _forecast(title, unit, told, twice, named, forecast.now, called)
        drawn.append(replace(plot, note=f"{plot.note} {small} smaller ones are in the JSON only.") if small else plot)
    return drawn


def _largest(lines: list[Series]) -> tuple[list[Series], int]:
    """The lines that one can tell apart in a plot, in their order, and how many smaller ones are left out."""
    if len(lines) <= _LINES_SHOWN:
        return lines, 0
    kept = sorted(lines, key=lambda each: max(value for value in each.value if value is not None))[-_LINES_SHOWN:]
    return [each for each in lines if each in kept], len(lines) - _LINES_SHOWN


def _twice(lines: Sequence[Series], states: Sequence[str]) -> Sequence[Series]:
    """The one line of a plot that is worth telling under twice the growth: that of the release, else the first."""
    its = [each for each in lines if _known(each) and not any(word in each.name for word in (_RECORDED, _OBJECTIVE))]
    of_release = [each for each in its if each.name == states[-1]]
    return (of_release or its)[:1]


def _forecast(
    title: str,
    unit: str,
    lines: Sequence[Series],
    twice: Sequence[Series],
    limits: Sequence[Limit],
    now: date,
    states: Sequence[str],
) -> Drawn:
    figure = go.Figure()
    modelled = [each.name for each in lines if _RECORDED not in each.name]
    banded = {modelled[0], modelled[-1]} if len(modelled) > _BANDS_SHOWN else set(modelled)
    highest = _highest((*lines, *twice))
    near = [limit for limit in limits if limit.value <= _FAR * max(highest, 1e-9)]
    scale, shown_unit = _scaled(lines, near, lines[0].unit or unit)
    for nth, series in enumerate(lines):
        colour, dash = _LINES[nth % len(_LINES)], _DASHES[nth % len(_DASHES)]
        name = _called(series.name) if series.name in states else _text(series.name)
        _banded(figure, series, name, colour, dash=dash, band=series.name in banded, scale=scale)
    for series in twice:
        name = f"{_text(series.name)}, growth doubled"
        _banded(figure, series, name, COLOURS["stop"], dash="dash", band=False, scale=scale)
    ends = [x for series in lines for x in (series.x[0], series.x[-1])]
    first, last = min(ends, key=_order), max(ends, key=_order)
    for limit in near:
        _limit(figure, Limit(limit.name, limit.value / scale), (first, last))
    _heights(figure, (*lines, *twice), near, scale, axis_unit(unit, shown_unit))
    dated = isinstance(first, str)
    if dated:
        _dates(figure, date.fromisoformat(str(first)), date.fromisoformat(str(last)))
        figure.add_vline(x=now.isoformat(), line={"dash": "dot", "width": 1, "color": "#888"})
    far = [limit for limit in limits if limit not in near]
    note = _how_to_read(lines, twice, modelled, far, highest, dated=dated, states=states)
    return Drawn(title, note, _plot(figure, 330 + 18 * max(len(lines) + len(twice) + len(near), 2)))


def _how_to_read(
    lines: Sequence[Series],
    twice: Sequence[Series],
    modelled: Sequence[str],
    far: Sequence[Limit],
    highest: float,
    *,
    dated: bool,
    states: Sequence[str],
) -> str:
    names = [_called(name) if name in states else _text(name) for name in (modelled[0], modelled[-1])]
    told = (
        "Band: 80 % interval." if len(modelled) <= _BANDS_SHOWN else f"Band: 80 % interval, of {' and '.join(names)}."
    )
    if any(_alike(*pair) for pair in combinations([each for each in lines if each.name in modelled], 2)):
        told += " Lines that are alike cover each other."
    if any(None in series.value for series in (*lines, *twice)):
        told += " Where a line ends, no number of clients reaches the rate any more."
    if dated:
        told += " Upright: the day of the forecast."
    for limit in far:
        told += (
            f" The limit, {_text(limit.name)}, is {limit.value / max(highest, 1e-9):,.0f} times the highest: not drawn."
        )
    return told


def axis_unit(plan: str, scaled: str) -> str:
    """The label of an axis: what it shows, in the unit that its numbers have."""
    if plan.startswith("bytes"):
        return f"{scaled}{plan.removeprefix('bytes')}"
    return plan or scaled


def _alike(one: Series, other: Series) -> bool:
    """Too near each other to be told apart: within a hundredth everywhere."""
    pairs = list(zip(one.value, other.value, strict=False))
    return one.x == other.x and all(
        (a is None and b is None) or (a is not None and b is not None and abs(a - b) <= max(abs(a), abs(b)) / 100)
        for a, b in pairs
    )


def _heights(figure: go.Figure, lines: Sequence[Series], limits: Sequence[Limit], scale: float, unit: str) -> None:
    values = [value / scale for each in lines for value in (*each.value, *each.high) if value is not None]
    positive = [value for value in (*values, *(limit.value / scale for limit in limits)) if value > 0]
    wide = bool(positive) and max(positive) / min(positive) > _WIDE
    if wide and unit.endswith("seconds"):
        figure.update_yaxes(title=f"{unit}, log", **_logarithmic(positive))
    else:
        figure.update_yaxes(title=unit, rangemode="tozero", nticks=6, tickformat="~s" if unit == "rows" else None)


def _dates(figure: go.Figure, start: date, end: date) -> None:
    margin = max((end - start) / 30, timedelta(days=1))
    months = 12 * max(1, math.ceil((end.year - start.year) / 6))
    figure.update_xaxes(
        title="date",
        type="date",
        tickformat="%Y",
        tick0=f"{start.year}-01-01",
        dtick=f"M{months}",
        tickangle=0,
        range=[(start - margin).isoformat(), (end + margin).isoformat()],
    )


def _highest(lines: Sequence[Series]) -> float:
    return max((value for each in lines for value in (*each.value, *each.high) if value is not None), default=0.0)


def _scaled(lines: Sequence[Series], limits: Sequence[Limit], unit: str) -> tuple[float, str]:
    """Bytes are shown in the unit that keeps their numbers short."""
    if unit.partition(" ")[0].partition("/")[0] not in _BYTES:
        return 1.0, unit
    heights = [abs(value) for each in lines for value in each.value if value is not None]
    greatest = max((*heights, *(limit.value for limit in limits)), default=1.0)
    for power, name in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if greatest >= 10**power:
            return float(10**power), name
    return 1.0, "bytes"


# -- in common -----------------------------------------------------------------------------------------------------------


def _banded(
    figure: go.Figure,
    series: Series,
    name: str,
    colour: str,
    *,
    dash: str = "solid",
    band: bool = True,
    scale: float = 1.0,
) -> None:
    low, middle, high = ([_over(each, scale) for each in values] for values in (series.low, series.value, series.high))
    if band:
        known = [nth for nth in range(len(middle)) if low[nth] is not None and high[nth] is not None]
        x, under, over = ([values[nth] for nth in known] for values in (series.x, low, high))
        figure.add_scatter(
            mode="lines",
            x=[*x, *reversed(x)],
            y=[*over, *reversed(under)],
            fill="toself",
            fillcolor=_faint(colour),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
    figure.add_scatter(
        mode="lines",
        name=name,
        x=list(series.x),
        y=middle,
        customdata=[[_number(under), _number(over)] for under, over in zip(low, high, strict=True)],
        hovertemplate="%{x}: %{y:.4g} (%{customdata[0]} to %{customdata[1]})<extra></extra>",
        line={"color": colour, "width": 2.2, "dash": dash},
    )


def _limit(figure: go.Figure, limit: Limit, ends: Sequence[Any]) -> None:
    figure.add_scatter(
        mode="lines",
        name=_text(limit.name),
        x=[ends[0], ends[-1]],
        y=[limit.value, limit.value],
        hovertemplate="limit %{y:.4g}<extra></extra>",
        line={"dash": "dot", "width": 2, "color": COLOURS["stop"]},
    )


def _clients_axis(figure: go.Figure, seen: Sequence[int], modelled: float) -> None:
    """Clients in doublings; what the models say beyond the last rung stands on grey."""
    first, last = min(seen, default=1), max(seen, default=1)
    end = max(last, modelled)
    ticks = [2**power for power in range(16) if first <= 2**power <= end * 1.01]
    if end > last * 1.01:
        figure.add_vrect(x0=last, x1=end * 1.18, fillcolor="rgba(128,128,128,.13)", line_width=0, layer="below")
    figure.update_xaxes(
        title="clients at once",
        type="log",
        tickvals=ticks,
        ticktext=[str(each) for each in ticks],
        range=[math.log10(first * 0.85), math.log10(end * 1.18)],
    )


def _logarithmic(shown: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis around what is shown, with numbers that people read."""
    values = [max(value, 1e-3) for value in shown] or [1.0]
    low, high = math.log10(min(values)), math.log10(max(values))
    length = max(high - low, 0.5)
    bottom, top = low - 0.08 * length, high + 0.12 * length
    steps = (1, 2, 5) if top - bottom < 1.6 else (1, 3) if top - bottom < 3 else (1,)
    ticks = [step * 10.0**decade for decade in range(math.floor(bottom), math.ceil(top) + 1) for step in steps]
    return {"type": "log", "range": [bottom, top], "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _ends(measured: Measured) -> tuple[str, ...]:
    return tuple(dict.fromkeys((BEFORE, measured.release)))


def _called(state: str) -> str:
    return "before" if state == BEFORE else f"after {_text(state)}"


def _clients_of(measured: Measured, size: float) -> list[int]:
    return sorted({rung.clients for rung in measured.rungs if rung.size == size})


def _state_of(name: str, states: Sequence[str]) -> str | None:
    words = re.split(r"[\s·,/]+", name)
    return next((state for state in states if state in words), None)


def _size_of(name: str) -> float | None:
    found = _SIZE.search(name)
    return float(found[1]) if found else None


def _by(key: Any, rungs: Iterable[RungResult]) -> dict[Any, list[RungResult]]:
    found: dict[Any, list[RungResult]] = {}
    for rung in rungs:
        found.setdefault(key(rung), []).append(rung)
    return dict(sorted(found.items()))


def _known(series: Series) -> bool:
    return bool(series.x) and any(value is not None for value in series.value)


def _over(value: float | None, scale: float) -> float | None:
    return None if value is None or not math.isfinite(value) else value / scale


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _order(x: str | float) -> tuple[int, str | float]:
    return (0, x) if isinstance(x, str) else (1, x)


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},.18)"


def _text(name: str) -> str:
    """As plotly shows it: names come from files and databases, and plotly takes tags for formatting."""
    return html.escape(str(name))


def _plot(figure: go.Figure, height: int = 380) -> Markup:
    figure.update_yaxes(ticks="outside", ticklen=4, tickcolor="rgba(0,0,0,0)")
    figure.update_layout(hovermode="closest", legend_traceorder="normal", showlegend=True)
    return plot_when_seen(figure, height, legend_below=True)
