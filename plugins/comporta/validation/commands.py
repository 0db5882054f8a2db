"""``comporta proofs``: which rollback proofs are valid now."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from comporta.validation.validity import ProofStatus, State

_STYLES: dict[State, str] = {"valid": "green", "stale": "yellow", "failed": "bold red", "missing": "red"}


def proofs(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a proof.")] = False) -> None:
    """Which rollback proofs are valid now, for these scripts and this target; exit status 1 unless all are."""
    # Settings are read when the command runs, and what reads SQL is loaded with them.
    from comporta.settings import load_settings
    from comporta.validation.validity import validity_now

    found = validity_now(load_settings())
    if as_json:
        for each in found:
            typer.echo(json.dumps(each.as_json(), ensure_ascii=False))
    else:
        out = Console(markup=False, emoji=False, highlight=False)
        out.print(_table(found))
        out.print(_summary(found), soft_wrap=True)
    raise typer.Exit(0 if all(each.valid for each in found) else 1)


def _table(found: Sequence[ProofStatus]) -> Table:
    table = Table("subject", "scenario", "state", "when (UTC)", "by", box=None, pad_edge=False)
    table.add_column("why", ratio=1)
    for each in found:
        when = f"{each.recorded_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if each.recorded_at else ""
        table.add_row(
            Text(each.subject),
            Text(each.scenario),
            Text(each.state, style=_STYLES[each.state]),
            Text(when),
            Text(each.by),
            Text("\n".join(each.reasons)),
        )
    return table


def _summary(found: Sequence[ProofStatus]) -> str:
    counts = Counter(each.state for each in found)
    summary = f"{counts['valid']} of {len(found)} proofs are valid"
    if counts["valid"] == len(found):
        return f"{summary}."
    others = ", ".join(f"{counts[state]} {state}" for state in _STYLES if state != "valid" and counts[state])
    return f"{summary}, {others}. `comporta prove --all` makes them anew; the target is only read."
