"""Commands of the Makefile: run, stop, status, clean; ``supervise`` is what the background process executes."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from comporta.errors import ComportaError
from comporta.local import environment, supervisor
from comporta.local.environment import WEB_USER
from comporta.local.layout import Layout
from comporta.local.start import DRY_RUN_DAG, Clusters, Starter
from comporta.local.web import Airflow
from comporta.settings import project_root

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


class Busy(ComportaError):
    """Another start or stop of this checkout is under way."""


@app.command()
def run(
    rows: Annotated[int, typer.Option(help="Rows of the demo catalogue when it is first loaded.", min=1)] = 300_000,
    again: Annotated[
        bool, typer.Option("--again", help="Dry-run even when nothing changed since the last one.")
    ] = False,
    shadows: Annotated[
        int, typer.Option(help="Shadow servers: as many proofs run side by side. Those there are stay.", min=1, max=4)
    ] = 1,
    dag: Annotated[str, typer.Option(help="The DAG to run.")] = DRY_RUN_DAG,
) -> None:
    """Start everything that is down and dry-run the release; the rollback proofs follow in the background."""
    layout, console = _layout(), _console()
    starter = Starter(layout, rows=rows, console=console, dag_id=dag, shadows=shadows)
    starter.phases.include(os.environ.get("COMPORTA_PREPARED", ""))
    with _one_at_a_time(layout):
        starter.run(again=again)


@app.command()
def stop() -> None:
    """Stop the Airflow processes and the servers of this checkout."""
    layout, console = _layout(), _console()
    with _one_at_a_time(layout):
        _stop(layout, console)


@app.command()
def status() -> None:
    """Show what runs, where, and how to sign in; exit status 1 when something is down."""
    layout, console = _layout(), _console()
    healthy = True
    for cluster in Clusters.of(layout):
        state = f"[green]running[/], pid {cluster.pid}, port {cluster.port}" if cluster.running else "[red]down[/]"
        healthy = healthy and cluster.running
        console.print(f"{cluster.name:<14} {state}", highlight=False)
    record = supervisor.record_of(layout)
    children = record.children if record else {}
    for name in supervisor.SUPERVISED:
        child = children.get(name)
        alive = child is not None and child.alive
        healthy = healthy and alive
        console.print(f"{name:<14} {f'[green]running[/], pid {child.pid}' if child and alive else '[red]down[/]'}")
    if record is None or not record.supervisor.alive:
        healthy = False
        console.print("supervisor     [red]down[/]: `make run` starts it")
    else:
        airflow = Airflow(environment.read(layout.environment)["AIRFLOW__API__BASE_URL"])
        unhealthy = airflow.unhealthy()
        healthy = healthy and not unhealthy
        console.print(
            f"health         {'[red]not healthy: ' + ', '.join(unhealthy) + '[/]' if unhealthy else '[green]ok[/]'}"
        )
        console.print(
            f"web UI         {airflow.address}, as {WEB_USER}; the password is in {layout.passwords}", soft_wrap=True
        )
    if not healthy:
        raise typer.Exit(1)


@app.command()
def clean() -> None:
    """Stop, then delete the clusters and the state of this checkout; reports stay."""
    layout, console = _layout(), _console()
    with _one_at_a_time(layout):
        _stop(layout, console)
        clusters = Clusters.of(layout)
        for cluster in clusters:
            cluster.remove()
        if not any(clusters.root.iterdir()):
            clusters.root.rmdir()
    for path in layout.state.iterdir():
        if path.name not in {"environment.lock", "start.lock"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    console.print(f"deleted the clusters and {layout.state}; reports under {layout.archives} stay", soft_wrap=True)


@app.command(hidden=True)
def supervise() -> None:
    """Run the Airflow processes and what stands beside them until told to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    supervisor.Supervisor(_layout()).run(supervisor.commands(Path(sys.executable).parent))


def _stop(layout: Layout, console: Console) -> None:
    stopped = supervisor.stop(layout)
    console.print("Airflow stopped" if stopped else "Airflow was not running")
    for cluster in Clusters.of(layout):
        console.print(f"{cluster.name} stopped" if cluster.stop("fast") else f"{cluster.name} was not running")


def _layout() -> Layout:
    return Layout(project_root())


def _console() -> Console:
    return Console(soft_wrap=True)


@contextmanager
def _one_at_a_time(layout: Layout) -> Iterator[None]:
    """Two starts, or a start and a stop, would undo each other's work."""
    layout.state.mkdir(parents=True, exist_ok=True)
    with (layout.state / "start.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                "another `make run` or `make stop` of this project is under way", remedy="Wait for it."
            ) from None
        yield


def main() -> None:
    """Run a command; an error of ours ends in its words, without a traceback, and exit status 1."""
    try:
        app()
    except ComportaError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
