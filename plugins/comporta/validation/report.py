"""The STAGE 3 report: the board of rollback proofs, the orders of rolling back, and the evidence for each of them."""

from __future__ import annotations

import html
import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from comporta.reports.page import COLOURS, Report, plot, plot_when_seen, write_report
from comporta.validation.model import ORDER, Fault, Phase, Proof, Verdict

NOT_RUN = "not run"
NOT_ASKED = "not asked for"
_STALL_LINE_MS = 200
_TOLD = {Verdict.FAILS: "fails", Verdict.NO_DATA: "has no data", None: "was not run"}
_SCENARIO_COLOURS = ("#3b78b5", "#d07a2d", "#7a5aa6", "#2a9d8f", "#a8577e", "#8a8f2a", "#7b8794")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x")
_ROLE_COLOURS = {"apply": COLOURS["read"], "verify": "#8a94a0", "rollback": COLOURS["pass"]}

Key = tuple[str, str]


def write_proof_report(
    folder: Path,
    proofs: Sequence[Proof],
    *,
    board: Mapping[str, str],
    scenarios: Mapping[str, str],
    expected: Sequence[Key],
    name: str,
    title: str,
    run_id: str,
    started: datetime,
    target: str,
    now: datetime,
) -> tuple[Report, str]:
    """Write ``rollback_proofs.html`` and ``.json``; the verdict is ``pass`` only if everything expected is there and holds.

    Of several proofs of one thing a failure counts, whatever came after it; else the last that holds; else the last.
    """
    keys = list(dict.fromkeys((*expected, *(_key(proof) for proof in proofs))))
    ordered = sorted(proofs, key=lambda proof: (keys.index(_key(proof)), proof.started))
    deciding = _deciding(ordered)
    verdict = "pass" if keys and all(key in deciding and ordered[deciding[key]].holds for key in keys) else "stop"
    counts = {
        "proofs": _count([key for key in keys if key[1] != ORDER], ordered, deciding),
        "orders": _count([key for key in keys if key[1] == ORDER], ordered, deciding),
    }
    figures = _figures(ordered)
    shown = list(dict.fromkeys((*scenarios, *(scenario for _, scenario in keys))))
    data = {
        "name": name,
        "title": title,
        "run_id": run_id,
        "started": f"{started.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "target": target,
        "verdict": verdict,
        "sentence": _sentence(counts, figures, keys, ordered, deciding),
        "counts": counts,
        "figures": figures,
        "scenarios": dict(scenarios),
        "board": [
            {
                "name": change,
                "title": board[change],
                "cells": [_cell((change, scenario), keys, ordered, deciding) for scenario in scenarios],
            }
            for change in board
        ],
        "orders": [
            _cell(key, keys, ordered, deciding) | _order(key, ordered, deciding) for key in keys if key[1] == ORDER
        ],
        "by_scenario": [_felt(scenario, ordered) for scenario in shown],
        "stall_line_ms": _STALL_LINE_MS,
        "missing": [" · ".join(key) for key in keys if key not in deciding],
        "superseded": [number for number in range(len(ordered)) if number not in deciding.values()],
        "proofs": [proof.to_dict() for proof in ordered],
    }
    plots = {
        "seconds": _seconds_plot(board, shown, ordered),
        "stalls": _stalls_plot(board, shown, ordered),
        "timelines": [_timeline(proof) for proof in ordered],
    }
    return write_report(folder, "rollback_proofs", "rollback_proofs.html.j2", data, plots, now), verdict


# -- what goes into the report -----------------------------------------------------------------------------------------


def _key(proof: Proof) -> Key:
    return proof.subject, proof.scenario


def _deciding(proofs: Sequence[Proof]) -> dict[Key, int]:
    """For each thing that was tried the number of the proof that counts; ``proofs`` are in order of time."""
    weight = {Verdict.NO_DATA: 0, Verdict.HOLDS: 1, Verdict.FAILS: 2}
    chosen: dict[Key, int] = {}
    for number, proof in enumerate(proofs):
        former = chosen.get(_key(proof))
        if former is None or weight[proof.verdict] >= weight[proofs[former].verdict]:
            chosen[_key(proof)] = number
    return chosen


def _count(keys: Sequence[Key], proofs: Sequence[Proof], deciding: Mapping[Key, int]) -> dict[str, int]:
    found = Counter(str(proofs[deciding[key]].verdict) if key in deciding else NOT_RUN for key in keys)
    return {"all": len(keys), **{word: found[word] for word in (*map(str, Verdict), NOT_RUN)}}


def _figures(proofs: Sequence[Proof]) -> dict[str, Any]:
    slowest = max(proofs, key=lambda proof: proof.seconds, default=None)
    stalled = max(proofs, key=lambda proof: proof.felt.longest_stall_s, default=None)
    return {
        "operations": sum(proof.felt.reads + proof.felt.writes for proof in proofs),
        "acknowledged_writes": sum(proof.felt.acknowledged_writes for proof in proofs),
        "lost_writes": sum(len(proof.lost_writes) for proof in proofs),
        "failed": sum(proof.felt.failed for proof in proofs),
        "excused": sum(proof.felt.excused for proof in proofs),
        "faults": dict(Counter(fault.kind for proof in proofs for fault in proof.faults).most_common()),
        "seconds": sum(proof.seconds for proof in proofs),
        "slowest": {"key": slowest.key, "seconds": slowest.seconds} if slowest else None,
        "longest_stall": {
            "key": stalled.key, "seconds": stalled.felt.longest_stall_s, "kind": stalled.felt.longest_stall_kind
        } if stalled else None,
    }  # fmt: skip


def _sentence(
    counts: Mapping[str, Mapping[str, int]],
    figures: Mapping[str, Any],
    keys: Sequence[Key],
    proofs: Sequence[Proof],
    deciding: Mapping[Key, int],
) -> str:
    if not keys:
        return "Nothing was to be proved, so nothing is proved."
    held = [f"{count['holds']} of {count['all']} {what}" for what, count in counts.items() if count["all"]]
    sentence = " and ".join([f"{held[0]} hold", *held[1:]])
    found = {key: proofs[deciding[key]].verdict if key in deciding else None for key in keys}
    wrong = [
        f"{subject} · {scenario} {_TOLD[verdict]}"
        for (subject, scenario), verdict in found.items()
        if verdict != Verdict.HOLDS
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        sentence += f" ({', '.join(wrong[:3])}{more})"
    acknowledged = figures["acknowledged_writes"]
    writes = f"{figures['lost_writes']:,} of {acknowledged:,} acknowledged writes lost" if acknowledged else (
        "no write was acknowledged, so none was put to the test"
    )  # fmt: skip
    slowest = figures["slowest"]
    took = f"; the slowest, {slowest['key']}, took {slowest['seconds']:.1f} s" if slowest else ""
    return f"{sentence}; {writes}{took}."


def _cell(key: Key, keys: Sequence[Key], proofs: Sequence[Proof], deciding: Mapping[Key, int]) -> dict[str, Any]:
    if key not in deciding:
        return {"subject": key[0], "scenario": key[1], "verdict": NOT_RUN if key in keys else NOT_ASKED, "proof": None}
    proof = proofs[deciding[key]]
    return {
        "subject": key[0],
        "scenario": key[1],
        "verdict": str(proof.verdict),
        "proof": deciding[key],
        "seconds": proof.seconds,
        "faults": len(proof.faults),
        "longest_stall_s": _stall(proof),
        "lost_writes": len(proof.lost_writes),
        "attempts": sum(1 for each in proofs if _key(each) == key),
    }


def _stall(proof: Proof) -> float | None:
    """None where no traffic ran: a silence is not a stall of zero."""
    return proof.felt.longest_stall_s if proof.felt.reads + proof.felt.writes else None


def _order(key: Key, proofs: Sequence[Proof], deciding: Mapping[Key, int]) -> dict[str, list[str] | str]:
    """What stood and what went, as the scripts that ran tell it."""
    if key not in deciding:
        return {"title": "", "stood": [], "gone": [], "stays": []}
    proof = proofs[deciding[key]]
    gone = list(dict.fromkeys(phase.change for phase in proof.phases if phase.role == "rollback"))
    stood = [owner for owner in proof.scripts if owner != "support"]
    stays = [change for change in stood if change not in gone]
    return {"title": proof.title, "stood": stood, "gone": gone, "stays": stays}


def _felt(scenario: str, proofs: Sequence[Proof]) -> dict[str, Any]:
    """What traffic felt in all proofs of one scenario, and which faults excuse its failures."""
    tried = [proof for proof in proofs if proof.scenario == scenario]
    excusing = Counter(fault.kind for proof in tried if proof.felt.excused for fault in proof.faults)
    return {
        "scenario": scenario,
        "proofs": len(tried),
        "acknowledged_writes": sum(proof.felt.acknowledged_writes for proof in tried),
        "unanswered_writes": sum(proof.felt.unanswered_writes for proof in tried),
        "lost_writes": sum(len(proof.lost_writes) for proof in tried),
        "failed": sum(proof.felt.failed for proof in tried),
        "excused": sum(proof.felt.excused for proof in tried),
        "excusing": dict(excusing.most_common()),
        "faults": dict(Counter(fault.kind for proof in tried for fault in proof.faults).most_common()),
        "longest_stall_s": max((stall for proof in tried if (stall := _stall(proof)) is not None), default=None),
        "seconds": sum(proof.seconds for proof in tried),
    }


# -- plots -------------------------------------------------------------------------------------------------------------


def _rows(board: Mapping[str, str], proofs: Sequence[Proof]) -> list[str]:
    """The rows of the overviews: each change, and one for the orders; a plot shows the last of them at the bottom."""
    return [*board, *(["orders"] if any(proof.scenario == ORDER for proof in proofs) else [])]


def _row(proof: Proof) -> str:
    return "orders" if proof.scenario == ORDER else proof.subject


def _seconds_plot(board: Mapping[str, str], scenarios: Sequence[str], proofs: Sequence[Proof]) -> Any:
    figure = go.Figure()
    for number, scenario in enumerate(scenarios):
        tried = [proof for proof in proofs if proof.scenario == scenario]
        figure.add_bar(
            orientation="h",
            name=scenario,
            y=[_row(proof) for proof in tried],
            x=[proof.seconds for proof in tried],
            customdata=[_text(proof.key) for proof in tried],
            hovertemplate="%{customdata}<br>%{x:.1f} s<extra></extra>",
            marker={"color": _colour(number), "line": {"width": 1, "color": "rgba(255,255,255,.7)"}},
        )
    rows = _rows(board, proofs)
    figure.update_layout(barmode="stack", legend_traceorder="normal")
    figure.update_xaxes(title=_titled("seconds"))
    figure.update_yaxes(categoryorder="array", categoryarray=rows, autorange="reversed")
    return plot(figure, height=150 + 34 * len(rows))


def _stalls_plot(board: Mapping[str, str], scenarios: Sequence[str], proofs: Sequence[Proof]) -> Any:
    rows = _rows(board, proofs)
    figure = go.Figure()
    for number, scenario in enumerate(scenarios):
        tried = [
            proof
            for proof in proofs
            if proof.scenario == scenario and _row(proof) in rows and _stall(proof) is not None
        ]
        # Side by side within the row, so that equal stalls do not hide each other.
        shift = 0 if scenario == ORDER else (number - (len(scenarios) - 1) / 2) * 0.6 / max(len(scenarios), 1)
        figure.add_scatter(
            mode="markers",
            name=scenario,
            x=[max(proof.felt.longest_stall_s * 1000, 1.0) for proof in tried],
            y=[rows.index(_row(proof)) + shift for proof in tried],
            customdata=[_text(_stall_text(proof)) for proof in tried],
            hovertemplate="%{customdata}<extra></extra>",
            marker={"size": 10, "color": _colour(number), "symbol": _SYMBOLS[number % len(_SYMBOLS)]},
        )
    highest = max([2.0 * _STALL_LINE_MS, *(1500 * proof.felt.longest_stall_s for proof in proofs)])
    figure.add_vline(x=_STALL_LINE_MS, line={"dash": "dot", "color": COLOURS["stop"]})
    figure.add_annotation(
        x=math.log10(_STALL_LINE_MS),
        y=-0.6,
        text=f" {_STALL_LINE_MS} ms",
        showarrow=False,
        xanchor="left",
        yanchor="top",
    )  # a place on a logarithmic axis is given as its exponent
    figure.update_xaxes(title=_titled("milliseconds"), type="log", dtick=1, range=[-0.05, math.log10(highest)])
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, range=[len(rows) - 0.4, -0.6])
    return plot(figure, height=170 + 44 * len(rows))


def _stall_text(proof: Proof) -> str:
    return f"{proof.key}: {proof.felt.longest_stall_s * 1000:,.1f} ms {proof.felt.longest_stall_kind}"


def _timeline(proof: Proof) -> Any:
    """Scripts as bars, faults as marks above them, stalls beneath: one row a script, however often it was started."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.07, row_heights=[0.62, 0.38])
    window = max([proof.seconds, *(phase.ended - proof.started for phase in proof.phases)], default=1.0)
    for name, phases in _bars(proof).items():
        figure.add_bar(
            row=1, col=1,
            orientation="h",
            name=name,
            y=[_text(f"{phase.change} {phase.role}") for phase in phases],
            base=[phase.started - proof.started for phase in phases],
            # A script of a millisecond in a minute must stay visible.
            x=[max(phase.seconds, window / 300) for phase in phases],
            customdata=[_phase_text(phase) for phase in phases],
            hovertemplate="%{y}, from %{base:.1f} s<br>%{customdata}<extra></extra>",
            marker={"color": _ROLE_COLOURS.get(name, COLOURS["stop"]), "pattern": {"shape": "/" if name == "broken off" else ""},
                    "line": {"width": 0}},
        )  # fmt: skip
    if proof.faults:
        figure.add_scatter(
            row=1, col=1,
            mode="markers",
            name="fault",
            x=[fault.at - proof.started for fault in proof.faults],
            y=["faults"] * len(proof.faults),
            customdata=[_fault_text(fault) for fault in proof.faults],
            hovertemplate="%{x:.1f} s: %{customdata}<extra></extra>",
            marker={"symbol": "triangle-down", "size": 10, "color": COLOURS["warn"]},
        )  # fmt: skip
    figure.add_scatter(
        row=2, col=1,
        mode="lines",
        name="stall",
        showlegend=False,
        x=[round(at - proof.started, 2) for at, _ in proof.felt.stalls],
        y=[round(max(seconds * 1000, 0.1), 1) for _, seconds in proof.felt.stalls],
        hovertemplate="%{y:,.1f} ms at %{x:.0f} s<extra></extra>",
        line={"width": 1.5, "color": COLOURS["write"]},
    )  # fmt: skip
    figure.add_hline(y=_STALL_LINE_MS, row=2, col=1, line={"dash": "dot", "width": 1, "color": COLOURS["stop"]})
    scripts = list(dict.fromkeys(_text(f"{phase.change} {phase.role}") for phase in proof.phases))
    rows = [*(["faults"] if proof.faults else []), *scripts]
    figure.update_layout(barmode="overlay", template="none")
    figure.update_xaxes(range=[-window / 60, window * 1.02])
    figure.update_xaxes(title=_titled("seconds from the start"), row=2, col=1)
    figure.update_yaxes(categoryorder="array", categoryarray=rows, autorange="reversed", row=1, col=1)
    highest = max([2 * _STALL_LINE_MS, *(1500 * seconds for _, seconds in proof.felt.stalls)])
    figure.update_yaxes(title=_titled("stall, ms"), type="log", dtick=1, range=[0, math.log10(highest)], row=2, col=1)
    return plot_when_seen(figure, height=250 + 26 * len(rows))


def _bars(proof: Proof) -> dict[str, list[Phase]]:
    """Phases by the colour that they get: their role, or ``broken off``."""
    groups: dict[str, list[Phase]] = {}
    for phase in proof.phases:
        groups.setdefault("broken off" if phase.error else phase.role, []).append(phase)
    return groups


def _phase_text(phase: Phase) -> str:
    done = f"{phase.statements_run} of {phase.statements} statements in {phase.seconds:.2f} s"
    return f"{done}<br>{_text(phase.error)}" if phase.error else done


def _fault_text(fault: Fault) -> str:
    return _text(f"{fault.kind}, {fault.where}: {fault.outcome}")


def _text(text: str, width: int = 60) -> str:
    """Text for a plot, which reads tags in it and does not break lines."""
    return "<br>".join(html.escape(line) for line in textwrap.wrap(text, width)[:6])


def _titled(text: str) -> dict[str, Any]:
    """A title that leaves room beside it on a phone."""
    return {"text": text, "font": {"size": 12}}


def _colour(number: int) -> str:
    return _SCENARIO_COLOURS[number % len(_SCENARIO_COLOURS)]
