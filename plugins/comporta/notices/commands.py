"""``comporta mail``: what was sent, what waits, what failed, and making failed mails due again."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from comporta.notices.model import Mail, MailState

app = typer.Typer(
    help="Mail about gates and rollouts: what was sent, what waits, and what failed.", no_args_is_help=True
)

_STYLES = {MailState.SENT: "green", MailState.WAITING: "yellow", MailState.FAILED: "bold red"}


@app.command("list")
def list_mail(
    failed: Annotated[bool, typer.Option("--failed", help="Only what was refused or given up.")] = False,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only what is still to be sent.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")] = False,
) -> None:
    """Show mails, newest first; exit status 1 when --failed finds one."""
    from comporta.notices.outbox import Outbox
    from comporta.settings import load_settings

    state = MailState.FAILED if failed else MailState.WAITING if waiting else None
    with Outbox(load_settings().require("control")) as outbox:
        found = outbox.mails(state, limit)
    if as_json:
        for mail in found:
            typer.echo(json.dumps(_brief(mail), default=str, ensure_ascii=False))
    else:
        console = Console(markup=False, emoji=False, highlight=False)
        console.print(_table(found) if found else "No such mail.")
    raise typer.Exit(1 if failed and found else 0)


@app.command("retry")
def retry_mail(
    mails: Annotated[list[int] | None, typer.Argument(help="Numbers of failed mails; all when left out.")] = None,
) -> None:
    """Make failed mails due again, to the addresses that config/gates.yaml has now; the DAG `post` sends them."""
    from comporta.gates.policy import policy_of
    from comporta.notices.outbox import Outbox
    from comporta.settings import load_settings

    settings = load_settings()
    with Outbox(settings.require("control")) as outbox:
        count = outbox.retry(policy_of(settings), mails)
    typer.echo(f"{count} mail{'' if count == 1 else 's'} due again")


def _brief(mail: Mail) -> dict[str, object]:
    """Without the bodies."""
    return {name: value for name, value in asdict(mail).items() if name not in ("plain", "html")}


def _table(mails: list[Mail]) -> Table:
    table = Table("mail", "owed since (UTC)", "to", "state", "tries", "next try (UTC)", box=None, pad_edge=False)
    table.add_column("subject, and what the server said", ratio=1)
    for mail in mails:
        state = MailState(mail.state)
        table.add_row(
            str(mail.id),
            f"{mail.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            Text(mail.recipient),
            Text(state, style=_STYLES[state]),
            str(mail.tries),
            f"{mail.next_due.astimezone(UTC):%H:%M:%S}" if state == MailState.WAITING else "",
            Text(mail.subject + (f"\n{mail.said}" if mail.said else "")),
        )
    return table
