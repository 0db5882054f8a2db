"""One self-contained HTML file a report: plots, tables and the digest of what it was computed from, nothing fetched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

# Colours that keep their meaning on a light and on a dark page, and for readers who see red and green alike.
COLOURS = {
    "pass": "#1b7f5c",
    "warn": "#b7791f",
    "stop": "#b83232",
    "note": "#4a6fa5",
    "read": "#3b78b5",
    "write": "#d07a2d",
}
_CONFIG = {"displayModeBar": False, "responsive": True}
_BELOW = {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0, "font": {"size": 12}}


@dataclass(frozen=True)
class Report:
    """The two files of a report and the digest of the data in them."""

    html: Path
    json: Path
    digest: str


def digest_of(data: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of ``data``: what a gate's decision is bound to."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str, ensure_ascii=False).encode()).hexdigest()


def plot(figure: go.Figure, height: int = 360) -> Markup:
    """The figure as a piece of HTML that needs the page's own copy of plotly.js."""
    drawn = _styled(figure, height).to_html(full_html=False, include_plotlyjs=False, config=_CONFIG)
    return Markup(drawn)  # noqa: S704 - plotly escapes what it embeds


def plot_when_seen(figure: go.Figure, height: int = 360, *, legend_below: bool = False) -> Markup:
    """As ``plot``, drawn once it comes into view: a page may hold dozens in closed sections and still open at once.

    A legend of several lines pushes the plot down on a narrow page; with ``legend_below`` it stands under the axis instead.
    """
    styled = _styled(figure, height)
    if legend_below:
        styled.update_layout(legend=_BELOW, margin={"t": 16, "r": 12, "l": 56})
    drawn = styled.to_json()
    box = (
        f'<div class="when-seen" style="min-height: {height}px"><script type="application/json">{drawn}</script></div>'
    )
    return Markup(box)  # noqa: S704 - plotly writes < as \\u003c


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#777"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
    )
    figure.update_xaxes(gridcolor="rgba(128,128,128,.25)", zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor="rgba(128,128,128,.25)", zeroline=False, automargin=True)
    return figure


def write_report(
    folder: Path, name: str, template: str, data: Mapping[str, Any], plots: Mapping[str, Any], now: datetime
) -> Report:
    """Write ``name.json`` (the data) and ``name.html`` (the page) into ``folder``, each whole or not at all."""
    digest = digest_of(data)
    page = (
        _environment()
        .get_template(template)
        .render(data=data, plots=plots, digest=digest, written_at=now, colours=COLOURS, plotly=_plotly())
    )
    report = Report(html=folder / f"{name}.html", json=folder / f"{name}.json", digest=digest)
    _write(report.json, json.dumps({**data, "digest": digest}, indent=1, default=str, ensure_ascii=False))
    _write(report.html, page)
    return report


def _plotly() -> Markup:
    return Markup(get_plotlyjs())  # noqa: S704 - plotly's own file


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("comporta.reports"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(ms=_milliseconds, size=_size, seconds=_seconds, ratio=_ratio)
    return environment


def _write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds: ``0.0123`` reads ``12.3 ms``."""
    if seconds is None:
        return "no data"
    value = seconds * 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def _seconds(value: float | None) -> str:
    return "no data" if value is None else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def _size(count: float | None) -> str:
    """Bytes in decimal units, signed."""
    if count is None:
        return "no data"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _ratio(value: float | None) -> str:
    return "no data" if value is None else f"{value:.2f} ×"
