"""``comporta events``: read, follow, anchor, verify, export and replay the ledger."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from comporta.ledger.anchor import Places, anchor, follow, make_key, read
from comporta.ledger.event import Event
from comporta.ledger.export import verify_lines
from comporta.ledger.projection import PROJECTIONS, Projection
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
    exported: Annotated[
        Path | None, typer.Option("--export", help="Verify this export (.jsonl) instead of the database.")
    ] = None,
) -> None:
    """Recompute the whole chain and compare it with the anchors; exit status 1 when anything does not hold."""
    places = _places(anchors, public_key)
    signed = read(places) if places.known or anchors else None
    held = signed.held if signed else ()
    if exported is not None:
        found = verify_lines(exported, held)
    else:
        with Ledger(_control_dsn()) as ledger, _bar("verifying") as progress:
            found = ledger.verify(progress=progress, anchors=held)
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
    new_key: Annotated[bool, typer.Option("--new-key", help="Only make a key, and the file of anchors.")] = False,
) -> None:
    """Sign the head of the chain and write it down outside the database."""
    places = _places()
    if new_key:
        typer.echo(f"key {make_key(places)}: private half {places.key}, public half {places.public}")
        return
    if follow_on:
        _follow(places)
        return
    with Ledger(_control_dsn()) as ledger:
        made = anchor(ledger, places)
    if made is None:
        typer.echo("The last anchor covers everything.")
    else:
        typer.echo(f"anchor {made.number}: block {made.head.n}, event {made.head.last_id}, {made.head.hash.hex()}")


@app.command("export")
def export_events(
    file: Annotated[Path, typer.Argument(help="Where to: a name that ends in .jsonl or .sqlite.")],
    stream: StreamName = None,
    until: Annotated[str | None, typer.Option("--until", help="Only what was recorded by then, in ISO 8601.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file when it exists.")] = False,
) -> None:
    """Copy the ledger into a file, whole or not at all."""
    moment = _moment(until) if until else None
    with Ledger(_control_dsn()) as ledger, _bar("exporting") as progress:
        written = ledger.export(file, stream=stream, until=moment, force=force, progress=progress)
    typer.echo(f"{written} events in {file}")


@app.command("replay")
def replay_events(
    at: Annotated[str | None, typer.Option("--at", help="Where everything stood then, in ISO 8601 (UTC).")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Rebuild every projection and compare it with the live one.")
    ] = False,
    only: Annotated[str | None, typer.Option("--projection", help="Only this one, such as gates.")] = None,
    as_json: Json = False,
) -> None:
    """Rebuild what is folded from the events, for a moment or as a check; exit status 1 when a row differs."""
    if check == (at is not None):
        raise typer.BadParameter("expected either --at TIME or --check")
    chosen = [projection for projection in PROJECTIONS if only in (None, projection.name)]
    if not chosen:
        raise typer.BadParameter(f"no projection {only}; there are: {', '.join(p.name for p in PROJECTIONS)}")
    with Ledger(_control_dsn()) as ledger:
        if check:
            _check_projections(ledger, chosen, as_json=as_json)
        elif at is not None:
            _show_moment(ledger, chosen, _moment(at), as_json=as_json)


def _check_projections(ledger: Ledger, chosen: list[Projection], *, as_json: bool) -> None:
    differing = 0
    for projection in chosen:
        found = ledger.differences(projection)
        differing += len(found)
        for difference in found:
            typer.echo(json.dumps(asdict(difference)) if as_json else str(difference))
        if not found and not as_json:
            typer.echo(f"{projection.name}: as the events have it")
    raise typer.Exit(1 if differing else 0)


def _show_moment(ledger: Ledger, chosen: list[Projection], moment: datetime, *, as_json: bool) -> None:
    upto = ledger.last_at(moment)
    stood = {projection.name: ledger.as_of(projection, upto) for projection in chosen}
    if as_json:
        typer.echo(json.dumps({"at": moment.isoformat(), "upto": upto, "projections": stood}, ensure_ascii=False))
        return
    console = _console()
    console.print(f"At {moment.isoformat()}, after event {upto}:", highlight=False)
    for projection in chosen:
        table = Table(*projection.shown, title=projection.name, title_justify="left", box=None, pad_edge=False)
        for row in stood[projection.name]:
            table.add_row(*(Text("" if row[name] is None else str(row[name])) for name in projection.shown))
        console.print(table if table.row_count else f"{projection.name}: none")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f'"{text}" is no time in ISO 8601, such as 2029-01-31T10:00Z') from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("events", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
