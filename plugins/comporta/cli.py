"""The command line: everything that the DAGs do, without Airflow.

Exit status: 0 the verdict is pass or warn; 1 the verdict is stop, or a check failed; 2 the input or a setting is wrong.
Progress goes to standard error; what a machine reads (``--json``) goes to standard output.
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from comporta.errors import ComportaError, ConfigurationError
from comporta.settings import load_settings

app = typer.Typer(
    name="comporta", help="Carry risky PostgreSQL changes through gates, and bring them back.", no_args_is_help=True,
    pretty_exceptions_enable=False,
)  # fmt: skip
# What is printed holds names and SQL of others: ":100:" is a line number, not an emoji, and brackets are no markup.
err = Console(stderr=True, markup=False, emoji=False, highlight=False)
out = Console(markup=False, emoji=False, highlight=False)

VERDICT_STOP = 1
# What others say of themselves, thousands of streams a day.
MIRRORED = ("airflow/", "mail/")
BAD_INPUT = 2


@app.command()
def lint(
    files: Annotated[list[Path] | None, typer.Argument(help="Scripts; the whole release when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON.")] = False,
) -> None:
    """Check the release file and its scripts without a server: dependencies, syntax, and squawk's rules."""
    from comporta.release.lint import lint as run_squawk
    from comporta.release.model import load_release

    if files:
        scripts = files
    else:
        settings = load_settings()
        release = load_release(settings.release_path, settings.home / "sql")
        scripts = [s.path for c in release.changes for s in (c.apply, c.verify, c.rollback)]
        scripts += [s.path for s in release.support]
        err.print(f"{release.name}: {len(release.changes)} changes, {len(scripts)} scripts, dependencies in order")
    findings = run_squawk(scripts)
    if as_json:
        out.print_json(json.dumps([vars(finding) for finding in findings]))
    for finding in () if as_json else findings:
        out.print(
            f"{finding.file}:{finding.line}: {finding.level} {finding.rule}: {finding.message} {finding.cure}",
            soft_wrap=True,
        )
    err.print(f"{len(findings)} finding(s)")
    raise typer.Exit(VERDICT_STOP if findings else 0)


@app.command("dry-run")
def dry_run(
    file: Annotated[Path | None, typer.Argument(help="Any script: is this safe? The release when left out.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--change", help="Only these changes (and what they require).")
    ] = None,
    keep_clone: Annotated[bool, typer.Option(help="Start from the golden copy that is there already.")] = False,
    reads: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="Reads per second, instead of the release's.")
    ] = None,
    writes: Annotated[int | None, typer.Option(min=0, max=10_000, help="Writes per second, likewise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report's data as JSON on standard output.")] = False,
) -> None:
    """STAGE 2: apply, verify and measure on a fresh clone under live traffic. The target is only read."""
    from comporta.dryrun.rehearsal import open_rehearsal

    with open_rehearsal(
        load_settings(),
        **this_run(),
        file=file,
        only=only,
        keep_clone=keep_clone,
        rates={"reads_per_s": reads, "writes_per_s": writes},
    ) as rehearsal:
        report, verdict = rehearsal.run_all()
    if as_json:
        sys.stdout.write(report.json.read_text(encoding="utf-8") + "\n")
    err.print(f"verdict: {verdict}\nreport:  {report.html}", highlight=False, soft_wrap=True)
    raise typer.Exit(VERDICT_STOP if verdict == "stop" else 0)


@app.command()
def prove(
    changes: Annotated[list[str] | None, typer.Argument(help="Changes to prove, such as OPT3.")] = None,
    prove_all: Annotated[
        bool, typer.Option("--all", help="Every change under every scenario, and the orders.")
    ] = False,
    scenarios: Annotated[
        list[str] | None, typer.Option("--scenario", help="Only under these scenarios (also: order).")
    ] = None,
    rollback: Annotated[
        Path | None, typer.Option(help="Prove this rollback script in place of the release's, for one change.")
    ] = None,
    fresh_clone: Annotated[
        bool, typer.Option(help="Clone the target again, even if its schema is as it was when the clone was made.")
    ] = False,
    reads: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="Reads per second, instead of the release's.")
    ] = None,
    writes: Annotated[int | None, typer.Option(min=0, max=10_000, help="Writes per second, likewise.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report's data as JSON on standard output.")] = False,
) -> None:
    """STAGE 3: prove on clones that rollbacks restore schema and data, under five kinds of trouble. The target is only read."""
    from comporta.validation.board import board
    from comporta.validation.runner import open_validation

    if bool(changes) == prove_all:
        raise ConfigurationError(
            "expected either changes or --all, found " + ("both" if prove_all else "neither"),
            remedy="Such as: comporta prove --all    comporta prove OPT3 --scenario killed",
        )
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=err, transient=True) as bar,
        open_validation(
            load_settings(),
            **this_run(),
            only=changes,
            scenarios=scenarios,
            rollback=rollback,
            fresh_clone=fresh_clone,
            rates={"reads_per_s": reads, "writes_per_s": writes},
        ) as validation,
    ):
        proving = bar.add_task("proofs", total=len(validation.tasks))
        report, verdict = validation.run_all(on_proof=lambda _: bar.advance(proving))
        proofs = validation.proofs()
    if as_json:
        sys.stdout.write(report.json.read_text(encoding="utf-8") + "\n")
    Console(stderr=True, emoji=False, highlight=False).print(board(proofs))
    err.print(f"verdict: {verdict}\nreport:  {report.html}", highlight=False, soft_wrap=True)
    raise typer.Exit(VERDICT_STOP if verdict == "stop" else 0)


@app.command()
def status(
    everything: Annotated[bool, typer.Option("--all", help="Also what Airflow's tasks and single mails say.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Where every run and gate stands: the last event of each stream of the ledger."""
    from comporta.ledger import Ledger

    with Ledger(load_settings().require("control")) as ledger:
        states = [each for each in ledger.current_state() if everything or not each.stream.startswith(MIRRORED)]
    if as_json:
        out.print_json(json.dumps([vars(state) for state in states], default=str))
        return
    table = Table("stream", "events", "last", "phase", "by", "at (UTC)")
    for state in states:
        table.add_row(
            state.stream,
            str(state.version),
            state.event_type,
            state.phase or "",
            state.actor,
            f"{state.timestamp:%Y-%m-%d %H:%M:%S}",
        )
    out.print(table if states else "The ledger is empty: nothing has run yet.")


def this_run() -> dict[str, Any]:
    """What every stage is told of a run from the command line."""
    started = datetime.now(UTC)
    return {
        "run_id": f"cli-{started:%Y%m%dT%H%M%S}",
        "started": started,
        "actor": f"cli:{getpass.getuser()}",
        "say": _tell,
    }


def _tell(text: str) -> None:
    err.print(text, soft_wrap=True)


def main() -> None:
    """Entry point: an error of ours is a message and an exit status, not a traceback."""
    _mount_rooms()
    with _errors_in_words():
        app()


def _mount_rooms() -> None:
    from comporta.capacity.commands import app as capacity
    from comporta.detector.commands import backtest
    from comporta.drills.commands import drill
    from comporta.gates.commands import app as gates
    from comporta.health.commands import app as health
    from comporta.ledger.commands import app as events
    from comporta.notices.commands import app as mail
    from comporta.rollout import commands as production
    from comporta.validation.commands import proofs

    app.command("proofs")(proofs)
    app.command("rollout")(production.rollout)
    app.command("rollback")(production.rollback)
    app.command("resume")(production.resume)
    app.command("standing")(production.standing)
    app.command("drill")(drill)
    app.command("backtest")(backtest)
    app.add_typer(capacity, name="capacity")
    app.add_typer(gates, name="gates")
    app.add_typer(health, name="health")
    app.add_typer(events, name="events", help="Read and verify the ledger.")
    app.add_typer(mail, name="mail", help="Mail about gates: what was sent, what waits, what failed.")


@contextmanager
def _errors_in_words() -> Iterator[None]:
    try:
        yield
    except ComportaError as error:
        err.print(f"error: {error.message}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        if error.remedy:
            err.print(error.remedy, markup=False, highlight=False, soft_wrap=True)
        sys.exit(BAD_INPUT)
