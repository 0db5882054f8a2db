"""``comporta health``: how the target of the release is, looking at it, holding breakers, and what is normal.

Exit status of ``status``: 0 when everything watched was seen to be good, 1 when anything is bad or has no data.
"""

from __future__ import annotations

import getpass
import json
import logging
import signal
import sys
import threading
from datetime import UTC, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from comporta.health.status import BreakerStatus, Health
from comporta.release.health import EVERYTHING

app = typer.Typer(help="Health of the target: breakers, samples, holds, the baseline.", no_args_is_help=True)
NOT_OK = 1
_STYLES = {"ok": "green", "bad": "bold red", "no data": "yellow", "not watched": "dim"}

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for machines.")]
Breaker = Annotated[str, typer.Argument(help="A breaker, such as latency; all of them when left out.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it is recorded.")]

log = logging.getLogger("comporta.health")


@app.command("status")
def status(
    as_json: Json = False,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Only whether somebody looks, whatever is seen: for health checks.")
    ] = False,
) -> None:
    """Show each breaker, what its last samples say, and who holds what open."""
    from comporta.health import look
    from comporta.release.model import load_release
    from comporta.settings import load_settings

    settings = load_settings()
    release = load_release(settings.release_path, settings.home / "sql")
    found = look(settings, release)
    if sampled:
        fresh = _is_sampled(found, release.health.stale_s)
        typer.echo("somebody looks" if fresh else "nobody looks: does the health monitor run?")
        raise typer.Exit(0 if fresh else NOT_OK)
    if as_json:
        typer.echo(json.dumps(found.as_json(), ensure_ascii=False))
    else:
        _show(found)
    raise typer.Exit(0 if found.ok else NOT_OK)


@app.command("watch")
def watch_target() -> None:
    """Sample the target, and probe what is half-open, until interrupted. Of several, one does and the others wait."""
    from comporta.health import watch
    from comporta.settings import load_settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    ending = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ending.set())
    watch(load_settings(), ending, lambda text: log.info("%s", text))


@app.command("hold")
def hold_breaker(breaker: Breaker = EVERYTHING, reason: Reason = "") -> None:
    """Hold a breaker open, or all: nothing goes on until a person releases it."""
    from comporta.health import hold
    from comporta.release.model import load_release
    from comporta.settings import load_settings

    settings = load_settings()
    release = load_release(settings.release_path, settings.home / "sql")
    hold(settings, release, actor=_person(), reason=reason, breaker=breaker)
    typer.echo(f"{release.name}: {_what(breaker)} held open by {_person()} until somebody releases it")


@app.command("release")
def release_breaker(breaker: Breaker = EVERYTHING, reason: Reason = "") -> None:
    """End every hold on a breaker, or on all. What the machine itself opened stays open until probes are good."""
    from comporta.health import look, release_hold
    from comporta.release.model import load_release
    from comporta.settings import load_settings

    settings = load_settings()
    release = load_release(settings.release_path, settings.home / "sql")
    whose = release_hold(settings, release, actor=_person(), reason=reason, breaker=breaker)
    typer.echo(f"{release.name}: {_what(breaker)} released, held by {', '.join(whose)}")
    for line in look(settings, release).why:
        typer.echo(f"  {line}")


@app.command("baseline")
def baseline(
    as_json: Json = False,
    if_none: Annotated[bool, typer.Option("--if-none", help="Only when this target has none yet.")] = False,
) -> None:
    """Measure what is normal now and record it: limits relative to the baseline are relative to this one from now on."""
    from comporta.health import ensure_baseline, take_baseline
    from comporta.release.model import load_release
    from comporta.settings import load_settings

    settings = load_settings()
    release = load_release(settings.release_path, settings.home / "sql")
    take = ensure_baseline if if_none else take_baseline
    taken = take(settings, release, actor=_person(), say=lambda text: typer.echo(text, err=True))
    if taken is None:
        typer.echo("the target has a baseline already", err=True)
        return
    if as_json:
        typer.echo(json.dumps(taken.as_json(), ensure_ascii=False))
        return
    table = Table("canary", "runs", "failed", "p50 ms", "p95 ms", box=None, pad_edge=False)
    for name, each in taken.canaries.items():
        table.add_row(Text(name), str(each.n), str(each.errors), _number(each.p50_ms), _number(each.p95_ms))
    _out().print(table)
    _out().print("  ".join(f"{name} {_number(value)}" for name, value in taken.signals.items()), soft_wrap=True)


def _show(health: Health) -> None:
    out = _out()
    out.print(
        f"{health.release}: ",
        Text(health.state, style=_STYLES[health.state]),
        f" · {health.target or 'no target was ever looked at'}",
        sep="",
    )
    table = Table("breaker", "state", "position", "value", "limit", "window", "seen (UTC)", box=None, pad_edge=False)
    table.add_column("why", ratio=1)
    for each in health.breakers:
        table.add_row(
            each.name,
            Text(each.state, style=_STYLES[each.state]),
            each.position + (", held" if each.held_by else ""),
            _number(each.value),
            _number(each.bound),
            _window(each),
            f"{each.last_at.astimezone(UTC):%H:%M:%S}" if each.last_at else "never",
            Text(each.why),
        )
    out.print(table)
    for hold in health.holds:
        out.print(f"{hold}, since {hold.held_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC", style="red", soft_wrap=True)


def _window(each: BreakerStatus) -> str:
    told = [f"{each.bad}/{each.n} bad"]
    told += [f"{each.slow}/{each.runs} slow"] if each.runs else []
    told += [f"{each.no_data} no data"] if each.no_data else []
    return ", ".join(told)


def _is_sampled(health: Health, stale_s: float) -> bool:
    seen = [each.last_at for each in health.breakers if each.last_at]
    return bool(seen) and health.at is not None and max(seen) > health.at - timedelta(seconds=stale_s)


def _what(breaker: str) -> str:
    return "all breakers are" if breaker == EVERYTHING else f"breaker {breaker} is"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1e6 else f"{value:.3g}"


def _person() -> str:
    return f"cli:{getpass.getuser()}"


def _out() -> Console:
    return Console(markup=False, emoji=False, highlight=False)
