"""The plots of a backtest's page, each legible at the width of a phone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from comporta.detector.bars import Bars
from comporta.reports.page import COLOURS, plot_when_seen

LONG, SHORT = COLOURS["pass"], COLOURS["write"]
NULL = "rgba(128,128,128,.75)"


def price_data(
    bars: Bars,
    market: Mapping[str, Any],
    alerts: Sequence[Mapping[str, Any]],
    truth: Mapping[str, Any],
    trades: Sequence[Mapping[str, Any]],
    gated: str,
) -> Markup:
    """Every scored session as JSON for the page's own viewer: candles, episodes, alerts, and trades from entry to exit.

    Times are places among the session's candles; an episode or a trade within a candle is drawn on it.
    """
    made = bars.resampled(market["period_min"])
    begin, after = market["session_start"], _minutes(market["session_end"]) - _minutes(market["session_start"])
    inside = (made.minute >= 0) & (made.minute < after)
    of = {name: _by_session(rows) for name, rows in (("alerts", alerts), ("trades", trades))}
    episodes = {name: _by_session(truth[name]) for name in ("opportunities", "zones")}
    told = []
    for session in truth["sessions"]:
        rows = np.flatnonzero(inside & (made.session == session))
        opened = made.open_time[rows]
        if not len(rows):
            continue

        def place(time: int, opened: Any = opened) -> int:
            """The candle that holds the moment just before ``time``."""
            return max(0, int(np.searchsorted(opened, time, side="left")) - 1)

        def candle(time: int, opened: Any = opened) -> int:
            """The candle that holds ``time``."""
            return max(0, int(np.searchsorted(opened, time, side="right")) - 1)

        told.append(
            {
                "day": bars.sessions[session],
                "x": [_clock(_minutes(begin) + int(minute)) for minute in made.minute[rows]],
                **{name: getattr(made, name)[rows].tolist() for name in ("open", "high", "low", "close")},
                **{
                    name: [[place(each["start"]), place(each["end"]), round(each["peak"], 2)] for each in found.get(session, ())]
                    for name, found in episodes.items()
                },
                "alerts": [
                    [place(each["time"]), each["direction"], each["price"], each["kind"], each["reason"]]
                    for each in of["alerts"].get(session, ())
                ],
                "trades": [
                    [
                        candle(each["entry_time"]), each["entry"], candle(each["exit_time"]), each["exit"], each["direction"],
                        each["stop"], each["target"], each["outcome"], round(each["net_points"], 1),
                    ]
                    for each in of["trades"].get(session, ())
                ],
            }
        )  # fmt: skip
    whole = json.dumps({"gated": gated, "sessions": told}, ensure_ascii=False).replace("<", "\\u003c")
    return Markup(whole)  # noqa: S704 - < is escaped, so that no text of it can end the script


def equity(trades: Sequence[Mapping[str, Any]], wins: Mapping[str, Any], market: Mapping[str, Any]) -> Markup | None:
    """Net points added up, trade by trade, beside what the same trades bring on random days; None without trades."""
    if not trades:
        return None
    ordered = sorted(trades, key=lambda each: (each["exit_time"], each["entry_time"]))
    total = np.cumsum([each["net_points"] for each in ordered])
    numbers = list(range(1, len(ordered) + 1))
    hover = [f"{each['outcome']}, {each['net_points']:+.1f} points, R$ {each['net_brl']:+.2f}" for each in ordered]
    figure = go.Figure(
        go.Scatter(
            x=numbers, y=total.round(2).tolist(), name="these trades", text=hover, line={"color": COLOURS["read"]},
            hovertemplate="trade %{x}: %{y:,.0f} points so far<br>%{text}<extra></extra>",
        )
    )  # fmt: skip
    if wins.get("null"):
        mean = wins["null"]["net_points"]
        figure.add_scatter(
            x=[0, len(numbers)], y=[0, mean * len(numbers)], name="the same trades on random days, mean",
            line={"color": NULL, "dash": "dash"}, hoverinfo="skip",
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": NULL, "width": 1})
    figure.update_xaxes(title="trades, in the order they ended", nticks=6)
    figure.update_yaxes(title=f"net points (R$ {market['point_value']:.2f} each)", nticks=6)
    return plot_when_seen(figure, legend_below=True)


def wins_against_null(rows: Sequence[Mapping[str, Any]], asked: float) -> Markup | None:
    """Win rates at several reward:risk, each beside that of its null; None when there was no trade."""
    known = [row for row in rows if row["value"] is not None]
    if not known:
        return None
    ticks = [f"RR {row['reward_risk']:g}" for row in known]
    nulls = [row["null"] or {"win": None, "win_interval": None} for row in known]
    figure = go.Figure()
    for name, colour, symbol, found in (
        ("these trades", COLOURS["read"], "circle", [(row["value"], row["interval"]) for row in known]),
        ("null: random days", NULL, "diamond", [(null["win"], null["win_interval"]) for null in nulls]),
    ):
        figure.add_scatter(
            x=ticks, y=[value for value, _ in found], name=name, mode="markers",
            marker={"color": colour, "size": 11, "symbol": symbol},
            error_y={
                "array": [max(0.0, band[1] - value) if band else 0 for value, band in found],
                "arrayminus": [max(0.0, value - band[0]) if band else 0 for value, band in found],
            },
        )  # fmt: skip
    figure.add_hline(y=asked, line={"color": COLOURS["stop"], "dash": "dot"}, annotation_text=f"asked: {asked:.0%}")
    figure.update_yaxes(title="win rate, net of costs", tickformat=".0%", range=[0, 1], nticks=6)
    figure.update_layout(scattermode="group", scattergap=0.7)
    return plot_when_seen(figure, legend_below=True)


def delays(findings: Sequence[Mapping[str, Any]], truth: Mapping[str, Any]) -> Markup | None:
    """How many minutes after the onset the alert came; None when nothing was captured."""
    found = [each["delay_min"] for each in findings if each["delay_min"] is not None]
    if not found:
        return None
    first, last = -truth["capture_before_min"], truth["capture_after_min"]
    edges = list(range(first, last + 1))
    counts = [sum(edge - 0.5 <= each < edge + 0.5 for each in found) for edge in edges]
    figure = go.Figure(
        go.Bar(x=edges, y=counts, marker={"color": COLOURS["read"]}, hovertemplate="%{x} min: %{y}<extra></extra>")
    )
    figure.update_xaxes(title="minutes after the onset (negative: before it)", range=[first - 1, last + 1], nticks=9)
    figure.update_yaxes(title="opportunities", nticks=6)
    return plot_when_seen(figure, 300)


def capture_by_hour(hours: Mapping[str, Sequence[int]]) -> Markup | None:
    """Captured and not captured opportunities by the hour of their onset; None when there was none."""
    if not hours:
        return None
    ticks = [f"{hour} h" for hour in hours]
    figure = go.Figure()
    captured = [counts[0] for counts in hours.values()]
    figure.add_bar(x=ticks, y=captured, name="captured", marker={"color": COLOURS["pass"]})
    figure.add_bar(
        x=ticks, y=[n - hits for hits, n in hours.values()], name="not captured",
        marker={"color": COLOURS["stop"], "pattern": {"shape": "/"}},
    )  # fmt: skip
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title="opportunities", nticks=6)
    return plot_when_seen(figure, 300, legend_below=True)


def heatmaps(tuning: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """What the grid reached by two of its settings, where it was chosen and where it was not, on one scale of colours."""
    table = tuning["heatmap"]
    parts = {"In sample": table["in_sample"], "Out of sample": table["out_of_sample"]}
    known = [cell for rows in parts.values() for row in rows for cell in row if cell is not None]
    drawn = []
    for title, cells in parts.items() if known else ():
        figure = go.Figure(
            go.Heatmap(
                x=[str(each) for each in table["xs"]], y=[str(each) for each in table["ys"]], z=cells,
                zmin=min(known), zmax=max(known), colorscale="Cividis", colorbar={"thickness": 10}, texttemplate="%{z:.3f}",
            )
        )  # fmt: skip
        figure.update_xaxes(title=table["x"], type="category")
        figure.update_yaxes(title=table["y"], type="category")
        drawn.append((f"{title}: {table['objective']}", plot_when_seen(figure)))
    return drawn


def _by_session(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["session"], []).append(row)
    return found


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
