"""``comporta rollout | rollback | resume | standing``: what the DAGs do, without Airflow, by the same proofs, gates
and ledger."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.table import Table

from comporta.errors import ConfigurationError, UnreachableServer
from comporta.gates.policy import policy_of
from comporta.ledger import Event, EventType
from comporta.rollout.engine import Rollout, open_rollout
from comporta.rollout.go import Go, use_or_ask
from comporta.rollout.standing import Standing, State
from comporta.settings import Settings, load_settings

REFUSED = 1
_STYLES = {State.IN_PLACE: "green", State.ABSENT: "dim", State.ROLLED_BACK: "yellow"}

Only = Annotated[
    list[str] | None, typer.Option("--change", help="Only these changes; all of the release when left out.")
]
Why = Annotated[str, typer.Option("--reason", "-r", help="Why; it is recorded.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for machines.")]


def rollout(change: Only = None) -> None:
    """Apply the release to the TARGET, one change after the other, under the breakers; asks for a Go where none is
    in force."""
    with _opened() as run:
        names = _names(run, change)
        run.preflight(names)
        go = use_or_ask(run.settings, run.release, run=run.run, login=_login(run.settings))
        _finish(run, names, go)


def resume(change: Only = None) -> None:
    """Take up the last run where it was cut, under the Go that it had: a half applied change goes on, a half rolled
    back one goes."""
    settings = load_settings()
    with _opened(settings) as looking:
        last = _last_run(looking)
    if last is None:
        raise ConfigurationError("no rollout of this release is on record", remedy="Start one: comporta rollout.")
    with _opened(settings, run=str(last.payload["run"])) as run:
        for standing in run.record.board().standings.values():
            if standing.state == State.ROLLING_BACK:
                run.roll_back(
                    standing.change, why="automatic" if standing.by_itself else "asked", because=standing.because
                )
        gate = _gate_of(run)
        go = (
            Go(settings.require("control"), gate, run.run)
            if gate is not None
            else use_or_ask(settings, run.release, run=run.run, login=_login(settings))
        )
        wanted = _names(run, change)
        gone = [each.change for each in run.record.board().standings.values() if each.state == State.ROLLED_BACK]
        _finish(run, [name for name in wanted if change or name not in gone], go)


def rollback(
    change: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as OPT3; what stands on them goes first.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option("--change", help="The same, as an option.")] = None,
    reason: Why = "",
) -> None:
    """Roll changes back on the TARGET, first what stands on them; needs no Go, and no Airflow."""
    names = [*(change or ()), *(option or ())]
    if not names:
        raise ConfigurationError(
            "expected a change, found none", remedy="Such as: comporta rollback OPT3 -r 'slow search'"
        )
    if not reason.strip():
        raise ConfigurationError(
            "expected a reason, found none", remedy="Say why: comporta rollback OPT3 -r 'slow search'"
        )
    with _opened() as run:
        for name in names:
            gone = run.roll_back(name, why="asked", because=f"{_login(run.settings)}: {reason}")
            _err().print(f"rolled back: {', '.join(gone) or 'nothing, it is not on the target'}")
        wrong = [each for name in names for each in run.not_restored(name)]
    for each in wrong:
        _err().print(each, style="bold red", soft_wrap=True)
    raise typer.Exit(REFUSED if wrong else 0)


def standing(as_json: Json = False) -> None:
    """Where each change stands on the target, by the ledger and by the target itself; what was done by hand is recorded."""
    with _opened() as run:
        looked = run.look()
        if as_json:
            typer.echo(json.dumps({"changes": [_plain(each) for each in looked.board.standings.values()],
                                   "drift": list(looked.unexplained)}, ensure_ascii=False, default=str))  # fmt: skip
            return
        table = Table("change", "state", "by", "at (UTC)", "run", "why")
        for each in looked.board.standings.values():
            at = f"{each.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if each.at else ""
            style = _STYLES.get(each.state, "bold red")
            table.add_row(each.change, str(each.state), each.actor, at, each.run, each.because, style=style)
        out = Console(markup=False, emoji=False, highlight=False)
        out.print(table)
        for difference in looked.unexplained:
            out.print(f"drift: {difference}", style="bold red", soft_wrap=True)


def _plain(each: Standing) -> dict[str, object]:
    return {
        "change": each.change,
        "state": str(each.state),
        "by": each.actor,
        "at": each.at and each.at.isoformat(),
        "run": each.run,
        "why": each.because,
        "armed": each.armed is not None,
    }


@contextmanager
def _opened(settings: Settings | None = None, *, run: str = "") -> Iterator[Rollout]:
    now = datetime.now(UTC)
    said = _err()
    try:
        with open_rollout(
            settings or load_settings(),
            run=run or f"cli-{now:%Y%m%dT%H%M%S}",
            started=now,
            actor=f"cli:{getpass.getuser()}",
            say=lambda text: said.print(text, soft_wrap=True),
        ) as opened:
            yield opened
    except psycopg.OperationalError as error:
        raise UnreachableServer(
            f"a server stopped answering: {' '.join(str(error).split())}",
            remedy="What ran stays. When it answers again: comporta resume, or comporta rollback.",
        ) from error


def _finish(run: Rollout, names: list[str], go: Go) -> None:
    run.carry(names, go)
    report, verdict = run.outcome()
    _err().print(f"verdict: {verdict}\nreport:  {report.html}", soft_wrap=True)
    raise typer.Exit(REFUSED if verdict == "stop" else 0)


def _names(run: Rollout, only: list[str] | None) -> list[str]:
    wanted = {run.release.change(name).name for name in only or ()}
    return [change.name for change in run.release.changes if not wanted or change.name in wanted]


def _login(settings: Settings) -> str:
    return policy_of(settings).person_of_cli(getpass.getuser())


def _last_run(run: Rollout) -> Event | None:
    """The last event of a rollout that was begun: a rollback by itself is none."""
    return next(iter(run.record.latest(EventType.ROLLOUT_PREFLIGHTED, 1)), None)


def _gate_of(run: Rollout) -> int | None:
    """The gate under whose Go the run last applied something."""
    started = run.record.latest(EventType.ROLLOUT_APPLY_STARTED, 50)
    gates = [event.payload.get("gate") for event in started if event.payload.get("run") == run.run]
    return int(gates[-1]) if gates and gates[-1] is not None else None


def _err() -> Console:
    return Console(stderr=True, markup=False, emoji=False, highlight=False)
