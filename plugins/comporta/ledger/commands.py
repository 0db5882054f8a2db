"""``comporta events``: read, follow, anchor, verify, export and replay the ledger."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from dataclasses import asdict, replace
from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from comporta.ledger.anchor import Places, anchor, follow, make_key, read
from comporta.ledger.event import Event
from comporta.ledger.store import Ledger
from comporta.ledger.verification import Verification

app = typer.Typer(
    help="Read, follow and verify the ledger: what was done and decided, by whom, and when.", no_args_is_help=True
)

_COLUMNS = ("id", "time (UTC)", "stream", "version", "event", "phase", "feature", "actor", "payload")

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")]
StreamName = Annotated[str | None, typer.Option("--stream", help="Only this stream, such as dry_run/42.")]
TypeName = Annotated[str | None, typer.Option("--type", help="Only this type of event, such as change_applied.")]


@app.command("list")
def list_events(
    stream: StreamName = None,
    event_type: TypeName = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="From the event behind this id; without it, the latest.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many events.")] = 50,
    as_json: Json = False,
) -> None:
    """Show events, oldest first."""
    with Ledger(_control_dsn()) as ledger:
        if after is None:
            events = ledger.latest(limit, stream=stream, event_type=event_type)
        else:
            events = ledger.read(stream, after, limit, event_type=event_type)
    if as_json:
        for event in events:
            typer.echo(as_line(event))
    else:
        _console().print(_table(events) if events else "No such event.")


@app.command("tail")
def tail_events(
    stream: StreamName = None,
    event_type: TypeName = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="From the event behind this id; without it, only new ones.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show events as they are recorded, until interrupted."""
    console = _console()
    with Ledger(_control_dsn()) as ledger:
        head = ledger.head()
        start = after if after is not None else head.last_id if head else 0
        try:
            for event in ledger.tail(start, stop=lambda: False):
                if stream not in (None, event.stream) or event_type not in (None, event.event_type):
                    continue
                if as_json:
                    typer.echo(as_line(event))
                else:
                    console.print(*_cells(event), markup=False, highlight=False)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


@app.command("verify")
def verify_chain(
    as_json: Json = False,
    anchors: Annotated[
        Path | None, typer.Option("--anchors", help="This file of anchors instead of the one in the settings.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="Trust these keys instead of those beside the anchors.")
    ] = None,
) -> None:
    """Recompute the whole chain and compare it with the anchors; exit status 1 when anything does not hold."""
    places = _places(anchors, public_key)
    signed = read(places) if places.known or anchors else None
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Ledger(_control_dsn()) as ledger, Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("events", total=None)
        found = ledger.verify(
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            anchors=signed.held if signed else (),
        )
    faults = signed.faults if signed else ()
    ok = found.ok and not faults
    if as_json:
        typer.echo(json.dumps({**_verdict(found), "ok": ok, "anchored": signed is not None, "anchor_faults": faults}))
        raise typer.Exit(0 if ok else 1)
    if found.ok:
        head = f"; head: block {found.head.n}, {found.head.hash.hex()}" if found.head else ""
        typer.echo(f"The ledger holds: {found.events} events in {found.blocks} blocks{head}")
    else:
        typer.echo(
            f"The ledger is BROKEN: {found.what}. {found.events} events in {found.blocks} blocks before it hold.",
            err=True,
        )
    for fault in faults:
        typer.echo(f"The anchors are BROKEN: {fault}", err=True)
    typer.echo(_how_anchored(found) if signed else "No anchors: nothing outside the database vouches for it.")
    raise typer.Exit(0 if ok else 1)


@app.command("anchor")
def anchor_chain(
    follow_on: Annotated[
        bool, typer.Option("--follow", help="Go on: every minute, and at once at every decision.")
    ] = False,
    new_key: Annotated[bool, typer.Option("--new-key", help="First make a key, and the file of anchors.")] = False,
) -> None:
    """Sign the head of the chain and write it down outside the database."""
    places = _places()
    if new_key:
        typer.echo(f"key {make_key(places)}: private half {places.key}, public half {places.public}")
    if follow_on:
        _follow(places)
        return
    with Ledger(_control_dsn()) as ledger:
        made = anchor(ledger, places)
    if made is None:
        typer.echo("The last anchor covers everything.")
    else:
        typer.echo(f"anchor {made.number}: block {made.head.n}, event {made.head.last_id}, {made.head.hash.hex()}")


def _follow(places: Places) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    ending = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ending.set())
    follow(_control_dsn(), places, ending=ending)


def _places(anchors: Path | None = None, public_key: Path | None = None) -> Places:
    from comporta.settings import load_settings

    places = Places.of(load_settings())
    if anchors is not None:
        places = replace(places, file=anchors, copy=None)
    return replace(places, public_key=public_key) if public_key else places


def _how_anchored(found: Verification) -> str:
    said = f"{found.anchors} anchors hold"
    if found.unanchored and found.unanchored_since:
        since = found.unanchored_since.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        said += f"; {found.unanchored} events since {since} UTC are not anchored yet"
    return said


def as_line(event: Event) -> str:
    """The event as one line of JSON; the time in ISO 8601 with its offset."""
    return json.dumps({**asdict(event), "timestamp": event.timestamp.isoformat()}, ensure_ascii=False)


def _verdict(found: Verification) -> dict[str, object]:
    head = found.head and {"n": found.head.n, "last_id": found.head.last_id, "hash": found.head.hash.hex()}
    since = found.unanchored_since and found.unanchored_since.isoformat()
    return {**asdict(found), "head": head, "unanchored_since": since}


def _table(events: list[Event]) -> Table:
    table = Table(*_COLUMNS[:-1], box=None, pad_edge=False, expand=True)
    table.add_column(_COLUMNS[-1], no_wrap=True, overflow="ellipsis", ratio=1, min_width=12)
    for event in events:
        table.add_row(*(Text(cell) for cell in _cells(event)))
    return table


def _cells(event: Event) -> tuple[str, ...]:
    payload = json.dumps(event.payload, ensure_ascii=False)
    return (
        str(event.id),
        event.timestamp.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        event.stream,
        str(event.version),
        event.event_type,
        event.phase or "",
        event.feature,
        event.actor,
        payload if len(payload) <= 120 else payload[:117] + "...",
    )


def _console() -> Console:
    return Console()


def _control_dsn() -> str:
    # Settings are read when a command runs, not when it is imported.
    from comporta.settings import load_settings

    return load_settings().require("control")
