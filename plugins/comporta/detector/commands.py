"""``comporta backtest``: the detector over a file of bars, three gates, and a page that opens in a browser."""

from __future__ import annotations

import json
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from comporta.errors import ConfigurationError

if TYPE_CHECKING:
    from comporta.detector.run import Backtest

err = Console(stderr=True, markup=False, emoji=False, highlight=False)
STYLES = {"PASS": "green", "FAIL": "bold red", "INSUFFICIENT": "yellow"}
ADJUSTMENTS = ("none", "proportional", "difference")
NOT_PASSED = 1


def backtest(
    file: Annotated[Path | None, typer.Argument(help="Bars: a MetaTrader 5 or Profit export, CSV, Parquet.")] = None,
    tz: Annotated[
        str | None, typer.Option(help="The zone of times that state none, such as America/Sao_Paulo.")
    ] = None,
    symbol: Annotated[str, typer.Option(help="What the bars are of.")] = "WIN",
    adjustment: Annotated[
        str, typer.Option(help="How rolls were adjusted in the file: none, proportional, difference.")
    ] = "none",
    period: Annotated[int | None, typer.Option(min=1, help="Minutes a bar; told from the bars when left out.")] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="The detector's settings; config/detector.yaml when left out.")
    ] = None,
    synthetic: Annotated[
        int | None, typer.Option(min=1, help="No file: so many synthetic sessions with planted bursts.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the synthetic sessions.")] = 7,
    zero_edge: Annotated[bool, typer.Option("--zero-edge", help="Synthetic: a fair walk without bursts.")] = False,
    no_guards: Annotated[
        bool, typer.Option("--no-guards", help="Do not look for look-ahead. The verdict is then never PASS.")
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Then tune by walk-forward, and show on the page what is left out of sample.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Gates and digests as JSON on standard output.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
) -> None:
    """Backtest the detector: capture, false positives, wins, each PASS, FAIL or INSUFFICIENT, behind guards against look-ahead.

    Exit status: 0 all three gates PASS; 1 one says FAIL or INSUFFICIENT, or a guard failed; 2 the input or a setting is wrong.
    """
    from comporta.cli import this_run
    from comporta.detector.guards import GuardFailed
    from comporta.detector.run import STEPS, Source, open_backtest
    from comporta.settings import load_settings

    if adjustment not in ADJUSTMENTS:
        raise ConfigurationError(
            f"--adjustment: expected one of {', '.join(ADJUSTMENTS)}, found {adjustment}",
            remedy="Say how the file's prices were adjusted at the rolls; none when they are as traded.",
        )
    source = Source(file, tz, symbol, adjustment, period, synthetic, seed, zero_edge)  # type: ignore[arg-type]
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        Progress(*columns, console=err, transient=True) as bar,
        open_backtest(
            load_settings(),
            source=source,
            **this_run(),
            detector=settings_file,
            guards=not no_guards,
            record="if it answers",
        ) as run,
    ):
        steps = bar.add_task(STEPS[0], total=len(STEPS))
        try:
            report, verdict = run.run_all(
                on_step=lambda name: bar.update(steps, description=name, completed=STEPS.index(name))
            )
        except GuardFailed as error:
            _say_guard(error, run, as_json=as_json)
            raise typer.Exit(NOT_PASSED) from None
        if tune:
            bar.update(steps, description="tune", completed=len(STEPS) - 1)
            run.tune()
            run.choose()
            report, verdict = run.report()
        bar.update(steps, completed=len(STEPS))
        result = run.result()
        if as_json:
            sys.stdout.write(json.dumps(answer(run, str(report.html)), indent=1, ensure_ascii=False) + "\n")
    Console(stderr=True, emoji=False, highlight=False).print(board(result))
    for reason in [*(gate["reason"] for gate in result["gates"].values()), *result["reasons"]]:
        err.print(reason, soft_wrap=True)
    err.print(f"verdict: {verdict}\nreport:  {report.html}", soft_wrap=True)
    if open_page:
        webbrowser.open(report.html.resolve().as_uri())
    raise typer.Exit(0 if verdict == "PASS" else NOT_PASSED)


def answer(run: Backtest, report: str) -> dict[str, Any]:
    """What a machine is told of a finished run."""
    result = run.result()
    kept = (
        "verdict",
        "reasons",
        "gates",
        "bound_to",
        "bars",
        "guards",
        "gated",
        "detection",
        "reward_risks",
        "kinds",
        "baselines",
    )
    return {
        **{name: result[name] for name in kept},
        "quality": result["quality"]["verdict"],
        "benchmark": run.folder.read("benchmark"),
        "result_sha256": run.result_digest(),
        "report": report,
        "run_id": run.run_id,
    }


def board(result: dict[str, Any]) -> Table:
    """The gate board for a terminal; the reasons, which hold the reward:risk and the null of the wins, are printed below it."""
    table = Table("gate", "verdict", "found", "95 %", "asked", box=None, pad_edge=False)
    for name, gate in result["gates"].items():
        value, interval = gate["value"], gate["interval"]
        sign = "<=" if name == "false_positives" else ">="
        table.add_row(
            name.replace("_", " "),
            f"[{STYLES[gate['verdict']]}]{gate['verdict']}[/]",
            f"{gate['hits']} / {gate['n']}" + ("" if value is None else f" = {value:.1%}"),
            "" if interval is None else f"{interval[0]:.1%} .. {interval[1]:.1%}",
            f"{sign} {gate['threshold']:.0%}",
        )
    return table


def _say_guard(error: Any, run: Backtest, *, as_json: bool) -> None:
    if as_json:
        told = {"verdict": "FAIL", "guards": run.folder.read("guards"), "error": error.message, "gates": {}}
        sys.stdout.write(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    err.print(f"error: {error.message}", style="bold red", soft_wrap=True)
    err.print(error.remedy, soft_wrap=True)
