"""The page of a backtest: gate board, price with all that happened, equity, delays, hours, data quality, tuning.

A win rate never stands without its reward:risk and its null.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from comporta.detector import plots
from comporta.detector.bars import Bars
from comporta.reports.folder import RunFolder
from comporta.reports.page import Report, write_report

NAME, TEMPLATE = "backtest", "backtest.html.j2"
VERDICT_KINDS = {"PASS": "pass", "FAIL": "stop", "INSUFFICIENT": "warn"}
TITLES = {"capture": "Capture", "false_positives": "False positives", "wins": "Wins"}
ASKED = {"capture": "at least", "false_positives": "at most", "wins": "at least"}


def write_backtest_report(folder: RunFolder, bars: Bars, started: datetime, now: datetime) -> Report:
    """Write ``backtest.html`` and ``backtest.json`` of what the steps left in ``folder``."""
    data = report_data(folder, started)
    result, settings = data["result"], data["result"]["settings"]
    trades, truth = folder.read("trades"), folder.read("truth")
    return write_report(
        folder.path,
        NAME,
        TEMPLATE,
        data,
        {
            "price": plots.price_data(bars, settings["market"], folder.read("alerts"), truth, trades, result["gated"]),
            "equity": plots.equity(trades, result["gates"]["wins"], settings["market"]),
            "wins": plots.wins_against_null(result["reward_risks"], settings["gates"]["wins_min"]),
            "delays": plots.delays(result["findings"], settings["truth"]),
            "hours": plots.capture_by_hour(result["detection"]["capture_by_hour"]),
            "tuning": plots.heatmaps(data["tuning"]) if data["tuning"] else [],
        },
        now,
    )


def report_data(folder: RunFolder, started: datetime) -> dict[str, Any]:
    """The data of the page, plain values."""
    result = folder.read("result")
    return {
        "run_id": folder.read("manifest")["run_id"],
        "started": f"{started:%Y-%m-%d %H:%M} UTC",
        "kind": VERDICT_KINDS[result["verdict"]],
        "sentence": sentence(result),
        "board": [_card(name, gate) for name, gate in result["gates"].items()],
        "result": result,
        "quality": folder.read("quality"),
        "benchmark": folder.read("benchmark") if folder.has("benchmark") else None,
        "tuning": folder.read("tuning") if folder.has("tuning") else None,
    }


def sentence(result: Mapping[str, Any]) -> str:
    """What the run found, in one sentence."""
    by_verdict: dict[str, list[str]] = {}
    for name, gate in result["gates"].items():
        by_verdict.setdefault(gate["verdict"], []).append(TITLES[name].lower())
    words = {"PASS": "passes", "FAIL": "fails", "INSUFFICIENT": "has too few events to tell"}
    more = {"PASS": "pass", "FAIL": "fail", "INSUFFICIENT": "have too few events to tell"}
    told = [
        f"{' and '.join(names)} {words[verdict] if len(names) == 1 else more[verdict]}"
        for verdict, names in by_verdict.items()
    ]
    said = "; ".join(told)
    return f"{said[0].upper()}{said[1:]}."


def _card(name: str, gate: Mapping[str, Any]) -> dict[str, Any]:
    kind = VERDICT_KINDS[gate["verdict"]]
    return {**gate, "name": name, "title": TITLES[name], "asked": ASKED[name], "kind": kind}
