"""``comporta capacity``: STAGE 4 from the command line, and questions to what the last run measured."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table
from rich.text import Text

from comporta.errors import ConfigurationError

if TYPE_CHECKING:
    from comporta.capacity.model import Answer, Forecast
    from comporta.capacity.runner import EarlierRun

app = typer.Typer(help="STAGE 4: what the system will need. A load ladder on the shadow, models, dates.")
err = Console(stderr=True, markup=False, emoji=False, highlight=False)
out = Console(markup=False, emoji=False, highlight=False)
STYLES = {"met": "green", "met_until": "yellow", "not_met": "bold red", "not_enough_data": "dim"}

AsJson = Annotated[bool, typer.Option("--json", help="The answers as JSON on standard output.")]


@app.callback(invoke_without_command=True)
def capacity(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="A short ladder: minutes, wider intervals.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, also where a run of the last day was cut short.")
    ] = False,
    fresh_clone: Annotated[
        bool, typer.Option(help="Clone the target again, even if its schema is as it was when the clone was made.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Climb the load ladder on the shadow, fit, forecast, report. The target is only read; a run that was cut short goes on."""
    if context.invoked_subcommand:
        return
    from comporta.capacity.model import Forecast
    from comporta.capacity.runner import FORECAST, open_capacity, unfinished
    from comporta.cli import VERDICT_STOP, this_run
    from comporta.release.model import load_release
    from comporta.settings import load_settings

    settings, run = load_settings(), this_run()
    release = load_release(settings.release_path, settings.home / "sql")
    earlier = None if fresh or fresh_clone else unfinished(settings, release, quick=quick)
    if earlier:
        run |= {"run_id": earlier.run_id, "started": earlier.started}
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=err, transient=True) as bar,
        open_capacity(settings, **run, quick=quick, fresh_clone=fresh_clone) as stage,
    ):
        done = len(stage.climb.results())
        left = stage.climb.left()
        if earlier:
            err.print(f"{earlier.run_id} goes on: {done} rungs stand, {left} are left (--fresh begins anew)")
        climbing = bar.add_task("rungs", total=done + left, completed=done)
        report, verdict = stage.run_all(
            on_rung=lambda _: bar.update(climbing, completed=done + left - stage.climb.left())
        )
        made = Forecast.from_dict(stage.folder.read(FORECAST))
    _show(made, as_json=as_json)
    err.print(f"verdict: {verdict}\nreport:  {report.html}", soft_wrap=True)
    raise typer.Exit(VERDICT_STOP if verdict == "stop" else 0)


@app.command("what-if")
def what_if(
    growth: Annotated[str, typer.Option(help="How many times the growth of now: 2x, 0.5x.")] = "1x",
    clients: Annotated[int | None, typer.Option(min=1, help="So many clients at once, all the time.")] = None,
    until: Annotated[str | None, typer.Option(help="Look as far as this day (YYYY-MM-DD).")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask what the last run measured: other growth, other load. Nothing is measured, nothing is recorded."""
    from comporta.capacity.model import Scenario
    from comporta.capacity.runner import open_capacity
    from comporta.cli import this_run
    from comporta.settings import load_settings

    settings, run = load_settings(), _last_run()
    with open_capacity(
        settings, **(this_run() | {"run_id": run.run_id, "started": run.started}), quick=run.quick, record=False
    ) as stage:
        scenario = Scenario(growth=_times(growth), clients=clients, until=_day(until) or stage.plan.until)
        made = stage.forecast(scenario, keep=False)
    err.print(f"by what {run.run_id} measured on {run.started:%Y-%m-%d}", soft_wrap=True)
    _show(made, as_json=as_json)


@app.command("plan")
def plan() -> None:
    """The execution plan of STAGE 4, from the release file: scope, days, owners, stop rules."""
    from comporta.capacity.execution_plan import execution_plan
    from comporta.release.model import load_release
    from comporta.settings import load_settings

    settings = load_settings()
    typer.echo(execution_plan(load_release(settings.release_path, settings.home / "sql")).markdown)


@app.command("calibrate")
def calibrate(as_json: AsJson = False) -> None:
    """After the rollout: compare the forecast with what production shows, and record it. The target is only read."""
    from comporta.capacity.calibration import calibrate as compare
    from comporta.cli import this_run
    from comporta.release.model import load_release
    from comporta.settings import load_settings

    settings = load_settings()
    made = compare(settings, load_release(settings.release_path, settings.home / "sql"), actor=this_run()["actor"])
    if as_json:
        out.print_json(json.dumps(made.to_dict()))
        return
    table = Table("what", "predicted", "80 % interval", "measured", "error", box=None, pad_edge=False)
    for item in made.items:
        table.add_row(*item.cells())
    out.print(table)
    err.print(made.sentence, soft_wrap=True)


def _last_run() -> EarlierRun:
    from comporta.capacity.runner import earlier_runs
    from comporta.settings import load_settings

    archives = load_settings().archives_path
    for run in earlier_runs(archives):
        if run.finished:
            return run
    raise ConfigurationError(
        f"no finished run of STAGE 4 is in {archives}: there is nothing to ask",
        remedy="Measure first: comporta capacity --quick",
    )


def _times(text: str) -> float:
    try:
        times = float(text.strip().removesuffix("x"))
    except ValueError:
        times = -1.0
    if not 0 <= times <= 1000:
        raise ConfigurationError(
            f"--growth: expected how many times the growth of now, such as 2x or 0.5x, found {text!r}"
        )
    return times


def _day(text: str | None) -> Any:
    from datetime import date

    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"--until: expected a day such as 2029-12-31, found {text!r}") from error


def _show(made: Forecast, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(made.to_dict(), ensure_ascii=False, indent=1) + "\n")
        return
    table = Table("question", "of", "state", "verdict", box=None, pad_edge=False)
    table.add_column("answer", ratio=1)
    for answer in made.answers:
        table.add_row(
            Text(answer.question),
            Text(answer.subject),
            Text(answer.state),
            Text(_verdict(answer), style=STYLES.get(answer.verdict, "")),
            Text(answer.text),
        )
    out.print(table)


def _verdict(answer: Answer) -> str:
    words = answer.verdict.replace("_", " ")
    return f"{words} {answer.date}" if answer.verdict == "met_until" and answer.date else words
