"""The STAGE 2 report: what each change costs while people work, what it changes, and which hazards it brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import plotly.graph_objects as go

from comporta.dryrun.hazards import coverage
from comporta.dryrun.probes import RUNS
from comporta.release.model import Budget, DryRunPlan
from comporta.reports.folder import RunFolder
from comporta.reports.page import COLOURS, Report, plot, write_report

_STRENGTH = (
    "AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock", "ShareUpdateExclusiveLock",
)  # fmt: skip
_LOCK_COLOURS = dict(zip(_STRENGTH, ("#b83232", "#d07a2d", "#c9a227", "#7a9e3a", "#3b78b5"), strict=True))


class Rehearsed(Protocol):
    """What the report needs to know of one candidate."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def budget(self) -> Budget: ...


def write_dry_run_report(
    folder: RunFolder,
    candidates: Sequence[Rehearsed],
    *,
    name: str,
    run_id: str,
    started: datetime,
    target: str,
    plan: DryRunPlan,
) -> tuple[Report, str]:
    """Write both files from what the steps left in ``folder``; returns them and the verdict pass, warn or stop."""
    changes = _changes(folder, candidates)
    preflight = folder.read("preflight") if folder.has("preflight") else None
    clone = folder.read("clone") if folder.has("clone") else None
    verdict = _overall(changes, preflight, clone)
    data = {
        "name": name,
        "run_id": run_id,
        "started": f"{started.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "target": target,
        "fingerprint": preflight["fingerprint"] if preflight else "not taken",
        "verdict": verdict,
        "sentence": _sentence(verdict, changes, preflight, clone),
        "plan": plan.model_dump(mode="json"),
        "runs": RUNS,
        "preflight": preflight["findings"] if preflight else None,
        "clone": {key: clone[key] for key in ("made", "differences", "fingerprint")} if clone else None,
        "changes": changes,
        "coverage": _coverage(changes),
        "interval": _interval(changes),
    }
    plots = {
        "sizes": _sizes_plot(changes, clone),
        "locks": {change["name"]: _locks_plot(change) for change in changes if change["numbers"]},
        "latency": {change["name"]: _latency_plot(change) for change in changes if change["numbers"]},
    }
    return write_report(folder.path, "report", "dry_run.html.j2", data, plots, datetime.now(UTC)), verdict


# -- what goes into the report -----------------------------------------------------------------------------------------


def _changes(folder: RunFolder, candidates: Sequence[Rehearsed]) -> list[dict[str, Any]]:
    before = folder.read("clone") if folder.has("clone") else None
    changes = []
    for candidate in candidates:
        roles = {role: _read(folder, f"{candidate.name}_{role}") for role in ("apply", "verify", "measure")}
        changes.append(_change(candidate, before, **roles))
        before = roles["measure"] or before
    return changes


def _read(folder: RunFolder, name: str) -> Any:
    return folder.read(name) if folder.has(name) else None


def _change(candidate: Rehearsed, before: Any, apply: Any, verify: Any, measure: Any) -> dict[str, Any]:
    ran = [role for role in (apply, verify) if role]
    errors = [role["error_text"] for role in ran if role["error_text"]]
    change: dict[str, Any] = {
        "name": candidate.name,
        "title": candidate.title,
        "budget": candidate.budget.model_dump(),
        "verdict": measure["verdict"] if measure else "stop",
        "error": "\n".join(errors) or None,
        "hazards": measure["hazards"] if measure else [],
        "numbers": _numbers(apply, ran) if apply else None,
        "lost_writes": [text for role in ran for text in role["lost_writes"]],
        "traffic_errors": sorted({text for role in ran for text in role["traffic"]["errors"]}),
    }
    if apply:
        change |= {
            "script": apply["path"].rsplit("/", 1)[-1],
            "sha256": apply["sha256"],
            "phases": apply["traffic"]["phases"],
            "points": apply["traffic"]["points"],
            "slow": apply["traffic"]["slow_by_themselves"],
            "window_s": apply["seconds"],
            "statements": [_statement(each) for each in apply["statements"]],
            "locks": _lock_bars(apply),
            "trace": apply["trace"],
            "queries": _queries(before["probes"], measure["probes"]) if before and measure else [],
            "sizes": measure["sizes"] if measure else {},
        }
    return change


def _numbers(apply: Mapping[str, Any], ran: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    longest, wait = apply["longest_access_exclusive"], apply["longest_wait_caused"]
    stalls = [role["traffic"]["longest_stall"]["seconds"] for role in ran if role["traffic"]["longest_stall"]]
    return {
        "seconds": apply["seconds"],
        "longest_stall": max(stalls, default=None),
        "longest_access_exclusive": longest["seconds"] if longest else 0.0,
        "longest_wait_caused": wait["seconds"] if wait else 0.0,
        "wal_bytes": apply["wal_bytes"],
        "temp_bytes": apply["temp_bytes"],
        "disk_growth_peak_bytes": apply["disk_growth_peak_bytes"],
        "rewrites": sum(
            1
            for each in apply["statements"]
            for rewrite in each["rewrites"]
            if rewrite["reachable"] and not rewrite["new_object"]
        ),
        "operations": sum(role["traffic"]["operations"] for role in ran),
        "failed": sum(role["traffic"]["failed"] for role in ran),
        "acknowledged_writes": sum(role["traffic"]["acknowledged_writes"] for role in ran),
        "lost_writes": sum(len(role["lost_writes"]) for role in ran),
    }


def _statement(measured: Mapping[str, Any]) -> dict[str, Any]:
    held = [
        lock for lock in measured["locks"] if lock["reachable"] and not lock["new_object"] and lock["mode"] in _STRENGTH
    ]
    strongest = min(held, key=lambda lock: (_STRENGTH.index(lock["mode"]), -lock["seconds"]), default=None)
    text = (
        f"{strongest['mode']} on {strongest['relation']}, {strongest['seconds'] * 1000:.1f} ms" if strongest else None
    )
    kept = {key: measured[key] for key in ("number", "line", "headline", "seconds", "rows", "wal_bytes", "temp_bytes")}
    return {**kept, "strongest": text}


def _lock_bars(apply: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Locks that others could run into, as [start, seconds] from the script's start; at most the 400 longest."""
    bars = [
        {
            "relation": lock["relation"],
            "mode": lock["mode"],
            "start": lock["first_seen"] - apply["started_at"],
            "seconds": lock["seconds"],
            "exact": lock["exact"],
            "line": statement["line"],
        }
        for statement in apply["statements"]
        for lock in statement["locks"]
        if lock["reachable"] and not lock["new_object"] and lock["mode"] in _STRENGTH
    ]
    return sorted(sorted(bars, key=lambda bar: -bar["seconds"])[:400], key=lambda bar: bar["start"])


def _queries(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    former = {probe["name"]: probe for probe in before}
    rows = []
    for probe in after:
        old = former[probe["name"]]
        ran = probe["seconds"] and old["seconds"]
        rows.append(
            {
                "name": probe["name"],
                "before": old["median_ms"] / 1000 if old["seconds"] else None,
                "after": probe["median_ms"] / 1000 if probe["seconds"] else None,
                "ratio": probe["median_ms"] / old["median_ms"] if ran else None,
                "rows": probe["rows"],
                "error": probe["error"],
                "plan_changed": probe["plan_digest"] != old["plan_digest"],
                "plan_before": old["plan"],
                "plan_after": probe["plan"],
            }
        )
    return rows


def _coverage(changes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The checklist of 30 hazards with how each is detected and in which change it was seen."""
    seen: dict[str, set[str]] = {}
    for change in changes:
        for hazard in change["hazards"]:
            seen.setdefault(hazard["code"], set()).add(change["name"])
    return [
        {"number": line["number"], "title": line["title"], "how": f"{line['how']}{': ' if line['note'] else ''}{line['note']}",
         "seen": ", ".join(sorted(seen.get(line["code"], ())))}
        for line in coverage([])
    ]  # fmt: skip


def _interval(changes: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    traces = [change["trace"] for change in changes if change["numbers"]]
    if not traces:
        return None
    return {
        "p50": round(max(t["interval_ms_p50"] for t in traces), 2),
        "p99": round(max(t["interval_ms_p99"] for t in traces), 2),
    }


def _overall(changes: Sequence[Mapping[str, Any]], preflight: Any, clone: Any) -> str:
    if not preflight or not clone or clone["differences"]:
        return "stop"
    verdicts = {change["verdict"] for change in changes}
    return "stop" if "stop" in verdicts else "warn" if "warn" in verdicts else "pass"


def _sentence(verdict: str, changes: Sequence[Mapping[str, Any]], preflight: Any, clone: Any) -> str:
    done = [change for change in changes if change["numbers"]]
    if not preflight or not clone:
        return "The dry run stopped before the first change; the reasons are below. The target was only read."
    operations = sum(change["numbers"]["operations"] for change in done)
    failed = sum(change["numbers"]["failed"] for change in done)
    lost = sum(change["numbers"]["lost_writes"] for change in done)
    ends = {
        "pass": "Nothing stands against going on.",
        "warn": "There are warnings to read before going on.",
        "stop": "It must not go on like this.",
    }
    return (
        f"{len(done)} of {len(changes)} change(s) ran on the clone beside {operations:,} operations of live traffic: "
        f"{failed} failed, {lost} acknowledged write(s) lost. {ends[verdict]}"
    )


# -- plots -------------------------------------------------------------------------------------------------------------


def _locks_plot(change: Mapping[str, Any]) -> Any:
    figure = go.Figure()
    for mode in _STRENGTH:
        bars = [bar for bar in change["locks"] if bar["mode"] == mode]
        if not bars:
            continue
        figure.add_bar(
            orientation="h",
            name=mode.removesuffix("Lock"),
            y=[bar["relation"] for bar in bars],
            base=[bar["start"] for bar in bars],
            # A lock of a millisecond in a minute must stay visible: half a percent of the width at least.
            x=[max(bar["seconds"], change["window_s"] / 400) for bar in bars],
            customdata=[[bar["seconds"] * 1000, bar["line"], "exact" if bar["exact"] else "sampled"] for bar in bars],
            hovertemplate="%{y}<br>%{customdata[0]:.1f} ms (%{customdata[2]}), line %{customdata[1]}<extra></extra>",
            marker_color=_LOCK_COLOURS[mode],
        )
    relations = len({bar["relation"] for bar in change["locks"]})
    if not relations:
        figure.add_annotation(text="No lock that another session could wait for.", showarrow=False)
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title="seconds from the start of the script", range=[0, max(change["window_s"], 0.001)])
    return plot(figure, height=160 + 26 * relations)


def _latency_plot(change: Mapping[str, Any]) -> Any:
    figure = go.Figure()
    for is_write, name in ((False, "read"), (True, "write")):
        points = [point for point in change["points"] if point[3] is is_write]
        figure.add_scattergl(
            mode="markers",
            name=name,
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            text=[point[2] for point in points],
            hovertemplate="%{text}<br>%{y:.1f} ms at %{x:.2f} s<extra></extra>",
            marker={"size": 5, "opacity": 0.6, "color": COLOURS[name]},
        )
    figure.add_vrect(
        x0=0, x1=change["window_s"], fillcolor="rgba(128,128,128,.15)", line_width=0, annotation_text="script runs"
    )
    budget = change["budget"]["longest_stall_ms"]
    ends = [
        min((point[0] for point in change["points"]), default=0),
        max((point[0] for point in change["points"]), default=1),
    ]
    figure.add_scatter(
        mode="lines",
        name=f"budget {budget} ms",
        x=ends,
        y=[budget, budget],
        line={"dash": "dot", "color": COLOURS["stop"]},
    )
    figure.update_xaxes(title="seconds from the start of the script")
    figure.update_yaxes(title="milliseconds", type="log")
    return plot(figure)


def _sizes_plot(changes: Sequence[Mapping[str, Any]], clone: Any) -> Any:
    """Size of the catalogue after each change: its biggest tables by name, the rest as one."""
    steps = [("before", clone["sizes"])] if clone else []
    steps += [(change["name"], change["sizes"]) for change in changes if change.get("sizes")]
    if not steps:
        return ""
    peak: dict[str, int] = {}
    for _, sizes in steps:
        for relation, size in sizes.items():
            peak[_family(relation)] = peak.get(_family(relation), 0) + size
    shown = sorted(peak, key=lambda family: -peak[family])[:8]
    figure = go.Figure()
    for family in shown:
        figure.add_bar(
            name=family,
            x=[step for step, _ in steps],
            y=[
                sum(size for relation, size in sizes.items() if _family(relation) == family) / 1e6 for _, sizes in steps
            ],
        )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title="MB")
    return plot(figure, height=380)


def _family(relation: str) -> str:
    """The leaves of one partitioned table count as one."""
    return (
        relation.rstrip("0123456789").removesuffix("default") + "*"
        if relation[-1].isdigit() or relation.endswith("_default")
        else relation
    )
