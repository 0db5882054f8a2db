"""Agenda and minutes as pages under ``archives/``: HTML with the timeline of answers, and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from comporta.reports.folder import RunFolder
from comporta.reports.page import COLOURS, Report, plot, write_report

_KINDS = {"ready": "pass", "blocker": "stop", "silent": "warn"}
_ROW_PX = 34


def write(folder: RunFolder, data: Mapping[str, Any], now: datetime) -> Report:
    """Write ``agenda`` or ``minutes``, whichever the data are."""
    name = str(data["kind"])
    return write_report(folder.path, name, "minutes.html.j2", data, {"answers": answers(data)}, now)


def answers(data: Mapping[str, Any]) -> Markup | str:
    """When each owner answered, in minutes after being asked, against the reminders and the end of the time."""
    rows: Sequence[Mapping[str, Any]] = data["readiness"]
    if not rows:
        return ""
    sla = float(data["sla_min"])
    figure = go.Figure()
    for row in rows:
        until = sla if row["after_min"] is None else float(row["after_min"])
        colour = COLOURS[_KINDS[row["status"]]]
        shown = f"{row['owner']}: {row['word']}" + (f" after {until:.0f} min" if row["after_min"] is not None else "")
        figure.add_trace(
            go.Scatter(
                x=[0, until],
                y=[row["owner"], row["owner"]],
                mode="lines+markers",
                line={"color": colour, "width": 7, "dash": "dot" if row["status"] == "silent" else "solid"},
                marker={"color": colour, "size": [0, 15], "symbol": _SYMBOLS[row["status"]]},
                hovertemplate=f"{shown}<extra></extra>",
                showlegend=False,
            )
        )
    for number, minutes in enumerate(data["remind_after_min"], start=1):
        figure.add_vline(
            x=minutes, line={"color": "#888", "dash": "dot", "width": 1}, annotation_text=f"reminder {number}"
        )
    figure.add_vline(x=sla, line={"color": COLOURS["stop"], "width": 2}, annotation_text="silence is a Blocker")
    figure.update_xaxes(title="minutes after being asked", range=[-1, sla * 1.22], tick0=0, dtick=15)
    figure.update_yaxes(autorange="reversed", type="category")
    return plot(figure, height=110 + _ROW_PX * len(rows))


_SYMBOLS = {"ready": "circle", "blocker": "x", "silent": "circle-open"}
