"""The plots of a rollout report. Times are drawn in UTC; a silence of hours between two bouts of work gets no paper."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.subplots import make_subplots

from comporta.reports.page import COLOURS, plot_when_seen
from comporta.rollout.report_samples import CanarySample, HealthSample, Stretch, by_name, stretches, thinned
from comporta.rollout.report_story import Span

_STEPS = {"apply": COLOURS["read"], "verify": "#8a94a0", "watch": "#a79bd0", "rollback": COLOURS["pass"]}
_FAILED, _BROKEN = "failed", "did not end"
_VERDICTS = {"ok": COLOURS["pass"], "bad": COLOURS["stop"], "no data": "#d9a441", "not sampled": "#8a94a0"}
_PATTERNS = {"bad": "x", "no data": "/", "not sampled": "."}
_MARKS = {
    "opened": ("x", COLOURS["stop"]),
    "held open": ("square", COLOURS["stop"]),
    "probing": ("diamond", COLOURS["warn"]),
    "closed": ("circle", COLOURS["pass"]),
    "released": ("square-open", COLOURS["pass"]),
}
_LINES = ("#3b78b5", "#d07a2d", "#7a5aa6", "#2a9d8f", "#a8577e", "#8a8f2a", "#7b8794")
_MOST_POINTS = 600
_QUIET = timedelta(seconds=60)
_NEAR = timedelta(seconds=15)
_PEOPLE, _BREAKERS = "people", "breakers"
Ends = tuple[datetime, datetime]


def bouts(intervals: Iterable[Ends], quiet: timedelta = _QUIET) -> list[Ends]:
    """Intervals gathered into bouts of work: a silence longer than ``quiet``, and than all work together, parts two of them."""
    ordered = sorted(intervals)
    joined = _joined(ordered, timedelta(0))
    busy = sum((end - start for start, end in joined), timedelta(0))
    return _joined(ordered, max(quiet, busy))


def _joined(ordered: Sequence[Ends], gap: timedelta) -> list[Ends]:
    found: list[Ends] = []
    for start, end in ordered:
        if found and start - found[-1][1] <= gap:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _ends(span: Span, following: Mapping[int, datetime]) -> Ends:
    """When a span is drawn to begin and to end: one that did not say so ends where its change goes on, or at once."""
    if span.ended is not None:
        return span.started, span.ended
    later = following.get(id(span))
    return span.started, later if later is not None and later - span.started <= _QUIET else span.started


def _following(spans: Sequence[Span]) -> dict[int, datetime]:
    found: dict[int, datetime] = {}
    for number, span in enumerate(spans):
        for later in spans[number + 1 :]:
            if later.change == span.change:
                found[id(span)] = later.started
                break
    return found


# -- timelines ---------------------------------------------------------------------------------------------------------


def timelines(
    spans: Sequence[Span],
    transitions: Sequence[Mapping[str, Any]],
    acts: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """One plot a bout of work: ``when`` it was, and the ``plot``. Marks are drawn in the bout that they are in or near to."""
    following = _following(spans)
    drawn = [(span, *_ends(span, following)) for span in spans]
    found = []
    for start, end in bouts((begun, ended) for _, begun, ended in drawn):
        near = start - max((end - start) / 2, _NEAR), end + max((end - start) / 2, _NEAR)
        here = [each for each in drawn if start <= each[1] <= end]
        marks = [each for each in transitions if near[0] <= _at(each) <= near[1]]
        people = [each for each in acts if near[0] <= _at(each) <= near[1]]
        moments = [start, end, *map(_at, (*marks, *people))]
        window = (min(moments), max(moments))
        found.append({"when": _when(window), "plot": _timeline(here, marks, people, names, window)})
    return found


def _timeline(
    drawn: Sequence[tuple[Span, datetime, datetime]],
    transitions: Sequence[Mapping[str, Any]],
    acts: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    window: Ends,
) -> Markup:
    figure = go.Figure()
    length = max((window[1] - window[0]).total_seconds(), 1.0)
    for look, bars in _looks(drawn).items():
        figure.add_bar(
            orientation="h",
            name=look,
            y=[text(span.change) for span, _, _ in bars],
            base=[clock(_seen_from(start, end, length / 150)) for _, start, end in bars],
            x=[1000 * max((end - start).total_seconds(), length / 150) for _, start, end in bars],
            customdata=[_told(span) for span, _, _ in bars],
            hovertemplate="%{customdata}<extra></extra>",
            marker={
                "color": _STEPS.get(look, COLOURS["stop"]),
                "pattern": {"shape": "/" if look == _BROKEN else "", "fgcolor": "#fff"},
                "line": {"width": 0},
            },
        )
    for what, (symbol, colour) in _MARKS.items():
        marks = [each for each in transitions if each["what"] == what]
        if marks:
            figure.add_scatter(
                mode="markers",
                name=f"breaker {what}",
                x=[clock(_at(each)) for each in marks],
                y=[_BREAKERS] * len(marks),
                customdata=[text(f"{each['breaker']} {what} by {each['who']}: {each['why']}") for each in marks],
                hovertemplate="%{customdata}<extra></extra>",
                marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
            )
    if acts:
        figure.add_scatter(
            mode="markers+text",
            name="a person (number below)",
            x=[clock(_at(each)) for each in acts],
            y=[_PEOPLE] * len(acts),
            text=[str(each["number"]) for each in acts],
            textposition="middle right",
            customdata=[text(f"{each['number']}. {each['who']} {each['what']} {each['why']}") for each in acts],
            hovertemplate="%{customdata}<extra></extra>",
            marker={"symbol": "triangle-down", "size": 11, "color": COLOURS["warn"]},
        )
    changes = [text(name) for name in names if any(span.change == name for span, _, _ in drawn)]
    rows = [*([_PEOPLE] if acts else []), *([_BREAKERS] if transitions else []), *changes]
    figure.update_layout(barmode="overlay", legend_traceorder="normal", bargap=0.35, showlegend=True)
    figure.update_yaxes(categoryorder="array", categoryarray=rows, autorange="reversed")
    _in_time(figure, window)
    return plot_when_seen(figure, height=150 + 38 * len(rows))


def _seen_from(start: datetime, end: datetime, shortest_s: float) -> datetime:
    """A script of a millisecond in an hour must stay visible: it is drawn longer, to the left, where nothing covers it."""
    return min(start, end - timedelta(seconds=shortest_s))


def _looks(drawn: Sequence[tuple[Span, datetime, datetime]]) -> dict[str, list[tuple[Span, datetime, datetime]]]:
    """Bars by what the legend calls them: their step, or how they ended."""
    groups: dict[str, list[tuple[Span, datetime, datetime]]] = {}
    for each in drawn:
        outcome = each[0].outcome
        look = each[0].step if outcome == "done" else _FAILED if outcome == "failed" else _BROKEN
        groups.setdefault(look, []).append(each)
    return {look: groups[look] for look in (*_STEPS, _FAILED, _BROKEN) if look in groups}


def _told(span: Span) -> str:
    ends = _hms(span.started) + (f" to {_hms(span.ended)}" if span.ended else ", no end was recorded")
    took = f", {(span.ended - span.started).total_seconds():.1f} s" if span.ended else ""
    return text(f"{span.change} {span.step} {span.outcome}, {ends}{took}. {span.said}")


# -- locks, latency, health --------------------------------------------------------------------------------------------


def locks(rows: Sequence[Mapping[str, Any]]) -> Markup | str:
    """The longest wait caused and the longest exclusive lock of each apply and rollback, against what the budget allows."""
    measured = [row for row in rows if row["measured"]]
    if not measured:
        return ""
    labels = _labels(measured)
    figure = go.Figure()
    # Of different sizes, so that equal ones do not hide each other.
    for key, budget, name, symbol, size, colour in (
        ("longest_wait_caused_s", "wait_budget_ms", "longest wait caused", "circle", 14, COLOURS["write"]),
        ("longest_exclusive_s", "exclusive_budget_ms", "longest exclusive lock", "diamond", 9, COLOURS["read"]),
    ):
        shown = [(label, row) for label, row in zip(labels, measured, strict=True) if row[key] is not None]
        figure.add_scatter(
            mode="markers",
            name=name,
            y=[label for label, _ in shown],
            x=[max(row[key] * 1000, 0.1) for _, row in shown],
            customdata=[f"{row[key] * 1000:.1f} ms of {row[budget]} ms" for _, row in shown],
            hovertemplate="%{y}: %{customdata}<extra></extra>",
            marker={"symbol": symbol, "size": size, "color": colour},
        )
        limits = [(label, row) for label, row in zip(labels, measured, strict=True) if row[budget] is not None]
        figure.add_scatter(
            mode="markers",
            name="its budget",
            y=[label for label, _ in limits],
            x=[row[budget] for _, row in limits],
            hovertemplate="%{y}: budget %{x} ms<extra></extra>",
            marker={"symbol": "line-ns", "size": 18, "line": {"width": 2, "color": colour}},
        )
    figure.update_layout(legend_traceorder="normal")
    drawn = [
        max(row[key] * 1000, 0.1)
        for row in measured
        for key in ("longest_wait_caused_s", "longest_exclusive_s")
        if row[key] is not None
    ]
    limits_ms = [row[key] for row in measured for key in ("wait_budget_ms", "exclusive_budget_ms") if row[key]]
    figure.update_xaxes(title=_titled("milliseconds"), **_logarithmic([*drawn, *limits_ms], above=0.05))
    figure.update_yaxes(categoryorder="array", categoryarray=labels, autorange="reversed")
    return plot_when_seen(figure, height=170 + 30 * len(labels))


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """``OPT1 apply``, and ``OPT1 apply 2`` when it was done again: a row of a plot must have a name of its own."""
    seen: dict[str, int] = {}
    labels = []
    for row in rows:
        label = text(f"{row['change']} {row['step']}")
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label} {seen[label]}")
    return labels


def latencies(spans: Sequence[Span], timed: Sequence[CanarySample]) -> list[dict[str, Any]]:
    """What the catalogue's own queries took over time, one plot a bout; grey is where a change was applied, green brought back."""
    if not timed:
        return []
    following = _following(spans)
    moved = [(span, *_ends(span, following)) for span in spans if span.step in ("apply", "rollback")]
    found = []
    for start, end in bouts((sample.at, sample.at) for sample in timed):
        figure = go.Figure()
        for number, (name, samples) in enumerate(by_name(timed, lambda each: each.canary).items()):
            here = [sample for sample in samples if start <= sample.at <= end]
            answered = thinned(
                [sample for sample in here if sample.ms is not None], _MOST_POINTS, lambda each: each.ms or 0.0
            )
            colour = _LINES[number % len(_LINES)]
            figure.add_scattergl(
                mode="markers",
                name=text(name),
                x=[clock(sample.at) for sample in answered],
                y=[sample.ms for sample in answered],
                hovertemplate="%{y:.1f} ms<extra></extra>",
                marker={"size": 5, "opacity": 0.7, "color": colour},
            )
            failed = [sample for sample in here if sample.ms is None]
            if failed:
                figure.add_scatter(
                    mode="markers",
                    name=text(f"{name} failed"),
                    x=[clock(sample.at) for sample in failed],
                    y=[max((sample.ms for sample in answered if sample.ms), default=1.0)] * len(failed),
                    customdata=[text(sample.error or "no answer") for sample in failed],
                    hovertemplate="%{customdata}<extra></extra>",
                    marker={"size": 9, "symbol": "x", "color": colour},
                )
        for span, begun, ended in moved:
            if start <= ended and begun <= end:
                figure.add_vrect(
                    x0=clock(begun),
                    x1=clock(max(ended, begun + (end - start) / 200)),
                    fillcolor="rgba(128,128,128,.22)" if span.step == "apply" else "rgba(27,127,92,.25)",
                    line_width=0,
                    annotation={"text": text(span.change), "textangle": -90, "font": {"size": 11}, "yanchor": "top"},
                )
        shown = [sample.ms for sample in timed if sample.ms is not None and start <= sample.at <= end]
        figure.update_yaxes(title=_titled("milliseconds"), **_logarithmic(shown, above=0.22))
        _in_time(figure, (start, end))
        found.append({"when": _when((start, end)), "plot": plot_when_seen(figure, 380)})
    return found


def breakers(health: Sequence[HealthSample], transitions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What every breaker saw over time: ok, bad, no data, and where nobody looked; with its changes of state."""
    if not health:
        return []
    found = []
    for start, end in bouts((each.started, each.ended) for each in stretches(health) if each.verdict != "not sampled"):
        here = [each for each in stretches(health) if each.started < end and each.ended > start]
        marks = [each for each in transitions if start <= _at(each) <= end]
        figure = go.Figure()
        names = sorted({each.breaker for each in here} | {each["breaker"] for each in marks})
        for verdict, colour in _VERDICTS.items():
            bars = [each for each in here if each.verdict == verdict]
            if bars:
                _add_stretches(figure, verdict, colour, bars, (start, end))
        for what, (symbol, colour) in _MARKS.items():
            its = [each for each in marks if each["what"] == what]
            if its:
                figure.add_scatter(
                    mode="markers",
                    name=what,
                    x=[clock(_at(each)) for each in its],
                    y=[text(each["breaker"]) for each in its],
                    customdata=[text(f"{what} by {each['who']}: {each['why']}") for each in its],
                    hovertemplate="%{y} %{customdata}<extra></extra>",
                    marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": "#fff"}},
                )
        figure.update_layout(barmode="overlay", legend_traceorder="normal", bargap=0.3, showlegend=True)
        figure.update_yaxes(categoryorder="array", categoryarray=[text(name) for name in names], autorange="reversed")
        _in_time(figure, (start, end))
        found.append({"when": _when((start, end)), "plot": plot_when_seen(figure, height=180 + 30 * len(names))})
    return found


def _add_stretches(figure: go.Figure, verdict: str, colour: str, bars: Sequence[Stretch], window: Ends) -> None:
    shortest = (window[1] - window[0]).total_seconds() / 300
    figure.add_bar(
        orientation="h",
        name=verdict,
        y=[text(each.breaker) for each in bars],
        base=[clock(max(each.started, window[0])) for each in bars],
        x=[
            1000 * max((min(each.ended, window[1]) - max(each.started, window[0])).total_seconds(), shortest)
            for each in bars
        ],
        customdata=[f"{verdict}, {each.samples} samples from {_hms(each.started)}" for each in bars],
        hovertemplate="%{y}: %{customdata}<extra></extra>",
        marker={
            "color": colour,
            "pattern": {"shape": _PATTERNS.get(verdict, ""), "fgcolor": "#fff", "size": 6},
            "line": {"width": 0},
        },
    )


def values(health: Sequence[HealthSample]) -> list[dict[str, Any]]:
    """The value of each breaker's signal over time under its limit, one plot a bout; a gap is where there was none."""
    measured = [sample for sample in health if sample.value is not None]
    found = []
    for start, end in bouts(
        (each.started, each.ended) for each in stretches(measured) if each.verdict != "not sampled"
    ):
        here = [sample for sample in health if start <= sample.at <= end]
        names = {sample.breaker for sample in here if sample.value is not None}
        sampled = {name: its for name, its in by_name(here, lambda each: each.breaker).items() if name in names}
        found.append({"when": _when((start, end)), "plot": _small_multiples(sampled, (start, end))})
    return found


def _small_multiples(sampled: Mapping[str, Sequence[HealthSample]], window: Ends) -> Markup:
    figure = make_subplots(
        rows=len(sampled),
        shared_xaxes=True,
        subplot_titles=[text(name) for name in sampled],
        vertical_spacing=min(0.3 / len(sampled), 0.1),
    )
    for row, samples in enumerate(sampled.values(), start=1):
        kept = _with_gaps(samples)
        at = [clock(sample.at) for sample in kept]
        shown: list[tuple[str, list[float | None], dict[str, Any]]] = [
            ("value", [sample.value for sample in kept], {"width": 1.6, "color": COLOURS["read"]}),
            ("limit", [sample.limit for sample in kept], {"width": 1.2, "color": COLOURS["stop"], "dash": "dot"}),
        ]
        for name, heights, line in shown:
            figure.add_scatter(
                row=row, col=1, mode="lines", name=name, x=at, y=heights, line=line, showlegend=row == 1, connectgaps=False
            )  # fmt: skip
    figure.update_yaxes(rangemode="tozero", nticks=4)
    figure.update_annotations(font={"size": 12})
    _in_time(figure, window)
    return plot_when_seen(figure, height=90 + 120 * len(sampled))


def _with_gaps(samples: Sequence[HealthSample]) -> list[HealthSample]:
    """Fewer samples, none of the highest lost, and one without a value wherever nobody looked: the line breaks there."""
    kept = thinned(samples, _MOST_POINTS, lambda each: math.inf if each.value is None else each.value)
    silent = [
        HealthSample(each.started, each.breaker, "no data")
        for each in stretches(samples)
        if each.verdict == "not sampled"
    ]
    return sorted([*kept, *silent], key=lambda each: each.at)


# -- in common ---------------------------------------------------------------------------------------------------------


def _logarithmic(drawn: Sequence[float], *, above: float) -> dict[str, Any]:
    """An axis from a little below the smallest to ``above`` of its length over the greatest, with numbers that people read."""
    low, high = (math.log10(max(end(drawn, default=1.0), 0.1)) for end in (min, max))
    length = max(high - low, 0.5)
    bottom, top = low - 0.06 * length, high + above * length
    steps = (1, 2, 5) if top - bottom < 2.2 else (1, 3) if top - bottom < 3.5 else (1,)
    ticks = [step * 10.0**decade for decade in range(math.floor(bottom), math.ceil(top) + 1) for step in steps]
    return {"type": "log", "range": [bottom, top], "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _in_time(figure: go.Figure, window: Ends) -> None:
    margin = max((window[1] - window[0]) / 25, timedelta(milliseconds=500))
    figure.update_xaxes(
        type="date",
        range=[clock(window[0] - margin), clock(window[1] + margin)],
        nticks=5,
        tickangle=0,
        tickfont={"size": 11},
    )


def _at(each: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(each["at"])


def clock(at: datetime) -> str:
    """A time as plotly takes it for UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"


def _hms(at: datetime) -> str:
    return f"{at.astimezone(UTC):%H:%M:%S}"


def _when(ends: Ends) -> str:
    start, end = (each.astimezone(UTC) for each in ends)
    same_day = start.date() == end.date()
    return f"{start:%Y-%m-%d %H:%M:%S} to {end:{'%H:%M:%S' if same_day else '%Y-%m-%d %H:%M:%S'}} UTC"


def text(words: str, width: int = 44) -> str:
    """Text for a plot, which reads tags in it and does not break lines."""
    return "<br>".join(html.escape(line) for line in textwrap.wrap(words, width)[:8])


def _titled(words: str) -> dict[str, Any]:
    """A title that leaves room beside it on a phone."""
    return {"text": words, "font": {"size": 12}}
