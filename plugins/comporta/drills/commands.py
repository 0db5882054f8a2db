"""``comporta drill``: fail a component over on purpose, take the time, and keep the result."""

from __future__ import annotations

import getpass
import json
import signal
from collections.abc import Sequence
from datetime import UTC
from typing import Annotated

import typer
from rich.console import Console

from comporta.drills import record
from comporta.drills.catalogue import DRILLS, NAMES, named
from comporta.drills.model import Context, Drill, DrillResult, Verdict
from comporta.drills.objectives import DrillPlan, Objective, load_plan
from comporta.ledger import Ledger
from comporta.settings import Settings, load_settings

_err = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
_out = Console(markup=False, emoji=False, highlight=False)

_MISSED = 1
_NO_DATA = 2


def drill(
    name: Annotated[
        str | None, typer.Argument(help=f"{', '.join(NAMES)}, or all that can run here; a list when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")] = False,
) -> None:
    """Lose a component on purpose, bring it back, and hold the time and the losses against the objectives.

    Exit status: 0 recovered within its objectives, 1 not, 2 it could not be tried here (with "all": none could).
    """
    settings = load_settings()
    plan = load_plan(settings.home / "config" / "drills.yaml", NAMES)
    chosen = named(name) if name else ()
    with Ledger(settings.require("control")) as ledger:
        if not chosen:
            _list(ledger, plan, as_json=as_json)
            return
        # A drill that is told to end still removes its copies.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        verdicts = [_perform(each, settings, plan, ledger, as_json=as_json) for each in chosen]
    raise typer.Exit(exit_status(verdicts))


def exit_status(verdicts: Sequence[Verdict]) -> int:
    """1 when any objective was missed, 2 when nothing could be tried, else 0."""
    if Verdict.MISSED in verdicts:
        return _MISSED
    return 0 if Verdict.MET in verdicts else _NO_DATA


def _perform(each: Drill, settings: Settings, plan: DrillPlan, ledger: Ledger, *, as_json: bool) -> Verdict:
    objective = plan.of(each.name)
    _err.print(f"{each.name}: {each.summary}\n  touches: {each.touches}")
    result = each.perform(Context(settings, plan, say=_err.print))
    verdict, why = result.judge(objective)
    record.record(ledger, each, result, objective, actor=f"cli:{getpass.getuser()}")
    for text, seconds in result.steps:
        _err.print(f"  {seconds:8.2f} s  {text}")
    _err.print(f"{each.name}: {_sentence(result, verdict, why, objective)}", style=_STYLES[verdict])
    if result.remedy:
        _err.print(f"  {result.remedy}")
    if as_json:
        typer.echo(
            json.dumps({"verdict": verdict, "why": why, "objective": objective.model_dump(), **result.to_dict()})
        )
    return verdict


def _sentence(result: DrillResult, verdict: Verdict, why: str, objective: Objective) -> str:
    if verdict == Verdict.NO_DATA:
        return f"{result.outcome}, no data: {why}"
    allowed = f"objectives: {objective.recovery_s:g} s, {objective.lost} lost"
    return f"{result.outcome}, objectives {verdict}: {why} ({allowed})"


def _list(ledger: Ledger, plan: DrillPlan, *, as_json: bool) -> None:
    rows = [(each, plan.of(each.name), record.last(ledger, each.name)) for each in DRILLS]
    if as_json:
        listed = [
            {"name": each.name, "component": each.component, "summary": each.summary, "touches": each.touches,
             "objective": objective.model_dump(), "last": last.to_dict() if last else None}
            for each, objective, last in rows
        ]  # fmt: skip
        for row in listed:
            typer.echo(json.dumps(row))
        return
    for each, objective, last in rows:
        _out.print(
            f"{each.name}\n  {each.summary}\n  touches     {each.touches}\n"
            f"  objectives  back within {objective.recovery_s:g} s, at most {objective.lost} {each.lost_are} lost\n"
            f"  last run    {_last_run(last)}\n",
            soft_wrap=True,
        )
    _err.print(
        "`comporta drill NAME` runs one, `comporta drill all` each that can run here; docs/runbooks/ has the rest."
    )


def _last_run(last: record.LastDrill | None) -> str:
    if last is None:
        return "never: no data"
    return f"{last.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {last.result.outcome}, objectives {last.verdict}: {last.why}"


_STYLES = {Verdict.MET: "green", Verdict.MISSED: "bold red", Verdict.NO_DATA: "yellow"}
