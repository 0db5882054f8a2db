"""``comporta gates``: what waits for people, and answering it, by the same rules as everywhere else.

Who answers is the user of this machine, as ``config/gates.yaml`` knows them, or with ``--as LOGIN`` whoever signs in to Airflow
with that login's password (asked for, or COMPORTA_WEB_PASSWORD).
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from comporta.errors import ConfigurationError
from comporta.gates.book import GateBook
from comporta.gates.errors import GateRefusal
from comporta.gates.gate import BatchResult, Choice, Decision, Gate, list_digest
from comporta.gates.policy import GatesFile, policy_of
from comporta.ledger import Ledger
from comporta.settings import Settings, load_settings

app = typer.Typer(help="Gates: questions put to people, with evidence; their answers.", no_args_is_help=True)
VIA = "command line"
REFUSED = 1

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for machines.")]
Numbers = Annotated[list[int] | None, typer.Argument(help="Numbers of gates, as `comporta gates list` shows them.")]
Everything = Annotated[bool, typer.Option("--all", help="Every open gate that you may decide.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it is recorded.")]
Atomic = Annotated[bool, typer.Option("--atomic", help="All of them or none.")]
As = Annotated[str | None, typer.Option("--as", help="Sign in to Airflow as this login, with its password.")]
_STYLES = {"open": "yellow", "go": "green", "no_go": "bold red", "expired": "red", "withdrawn": "dim"}


@app.command("list")
def list_gates(
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that are decided, expired or withdrawn.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what waits for people: question, deadline, what is missing."""
    settings = load_settings()
    with GateBook(settings.require("control")) as book:
        book.sweep()
        gates = book.list(states=None if everything else ("open",))
    if as_json:
        typer.echo(json.dumps([gate.as_json() for gate in gates], ensure_ascii=False))
        return
    _out().print(_table(gates) if gates else "No gate is open: nothing waits for anybody.")


@app.command("show")
def show(gate: Annotated[int, typer.Argument(help="Its number.")], as_json: Json = False) -> None:
    """Show one gate with its evidence as it is now, the votes, and everything that happened to it."""
    settings = load_settings()
    with GateBook(settings.require("control")) as book:
        (found,) = _renewed(settings, policy_of(settings), book, [book.get(gate)])
        history = book.history(gate)
    if as_json:
        events = [
            {"id": each.id, "type": each.event_type, "actor": each.actor, "payload": each.payload} for each in history
        ]
        typer.echo(json.dumps(found.as_json() | {"history": events}, ensure_ascii=False, default=str))
        return
    out = _out()
    out.print(
        f"Gate {found.gate} · {found.name} · {found.word}\n{found.question}\nasked by {found.asker}", soft_wrap=True
    )
    out.print(f"opened {_when(found.opened_at)}, until {_when(found.deadline)}")
    for item in found.evidence:
        out.print(f"  evidence  {item.digest[:12]}  {item.title}: {item.detail}", soft_wrap=True)
    for line in (
        *(f"  blocker   {each}" for each in found.blockers),
        *(f"  changed   {each}" for each in found.changes),
    ):
        out.print(line, soft_wrap=True)
    for vote in found.votes:
        out.print(
            f"  vote      {vote.actor} ({vote.role or 'no place'}): {vote.decision}, {vote.reason}", soft_wrap=True
        )
    for missing in found.missing:
        out.print(f"  missing   {missing.count} × {missing.role}: {', '.join(missing.holders) or 'nobody left'}")
    for event in history:
        said = event.payload.get("why") or event.payload.get("reason") or ""
        out.print(f"  {event.timestamp.astimezone(UTC):%m-%d %H:%M:%S}  {event.event_type:<22} {event.actor}  {said}")


@app.command("approve")
def approve(
    gates: Numbers = None,
    everything: Everything = False,
    reason: Reason = "",
    atomic: Atomic = False,
    login: As = None,
    as_json: Json = False,
) -> None:
    """Say Go (or Ready); exit status 1 when any gate was refused."""
    _decide("go", gates, everything, reason, atomic, login, as_json)


@app.command("reject")
def reject(
    gates: Numbers = None,
    everything: Everything = False,
    reason: Reason = "",
    atomic: Atomic = False,
    login: As = None,
    as_json: Json = False,
) -> None:
    """Say No-Go (or Blocker); exit status 1 when any gate was refused."""
    _decide("no_go", gates, everything, reason, atomic, login, as_json)


@app.command("revoke")
def revoke(
    gate: Annotated[int, typer.Argument(help="Its number.")],
    reason: Reason = "",
    login: As = None,
) -> None:
    """Take your own vote back, while nobody has acted on the decision."""
    settings = load_settings()
    actor = _person(settings, policy_of(settings), login)
    with GateBook(settings.require("control")) as book:
        try:
            found = book.revoke(gate, actor=actor, reason=reason, via=VIA)
        except GateRefusal as refused:
            _out().print(f"{refused.message}. {refused.remedy}", style="red", soft_wrap=True)
            raise typer.Exit(REFUSED) from None
    _out().print(f"gate {gate} {found.name}: the vote of {actor} is taken back; it is {found.word}")


@app.command("check")
def check() -> None:
    """Check the gates file: every name in it is defined, every role has people."""
    file = policy_of(load_settings())
    _out().print(
        f"{len(file.gates)} gates, {len(file.roles)} roles, {len(file.people)} people, "
        f"{len(file.readiness.owners)} owners asked each day: in order"
    )


@app.command("audit")
def audit_gates(as_json: Json = False) -> None:
    """Read every gate's story from the ledger alone and apply each rule again; exit status 1 when an event should not be there."""
    from comporta.gates.audit import audit

    with Ledger(load_settings().require("control")) as ledger:
        events = [event for event in ledger.every() if event.stream.startswith("gate/")]
    found = list(audit(events))
    if as_json:
        typer.echo(json.dumps([vars(each) for each in found]))
    else:
        gates = len({event.stream for event in events})
        out = _out()
        for each in found:
            out.print(f"event {each.event}, gate {each.gate}: {each.what}", style="red", soft_wrap=True)
        out.print(f"{gates} gates, {len(events)} events, {len(found)} finding(s)")
    raise typer.Exit(REFUSED if found else 0)


def _decide(
    decision: Decision,
    numbers: Sequence[int] | None,
    everything: bool,
    reason: str,
    atomic: bool,
    login: str | None,
    as_json: bool,
) -> None:
    if bool(numbers) == everything:
        raise ConfigurationError(
            "expected either numbers of gates or --all, found " + ("both" if numbers else "neither"),
            remedy="Such as: comporta gates approve 4711 --reason 'read both reports'",
        )
    settings = load_settings()
    file = policy_of(settings)
    actor = _person(settings, file, login)
    with GateBook(settings.require("control")) as book:
        book.sweep()
        asked = [book.get(number) for number in numbers or ()] or book.list(states=("open",))
        before = {gate.gate: gate.digest for gate in asked}
        # A digest of before the look: what changed only now has not been seen by anybody.
        shown = [Choice(gate.gate, before[gate.gate]) for gate in _renewed(settings, file, book, asked)]
        may = {gate.gate for gate in asked if not everything or not gate.why_not(actor)}
        result = book.decide(
            [choice for choice in shown if choice.gate in may],
            decision,
            actor=actor,
            reason=reason,
            shown=shown,
            list_digest=list_digest(shown),
            via=VIA,
            atomic=atomic,
        )
    _tell(result, actor, as_json)
    raise typer.Exit(REFUSED if result.refused or result.list_refused else 0)


def _tell(result: BatchResult, actor: str, as_json: bool) -> None:
    if as_json:
        refused = [vars(each) for each in result.refused]
        decided = [gate.as_json() for gate in result.decided]
        typer.echo(json.dumps({"batch": result.batch, "decided": decided, "refused": refused}, ensure_ascii=False))
        return
    out = _out()
    for gate in result.decided:
        waits = ", ".join(f"{each.count} × {each.role}" for each in gate.missing)
        then = f"still needs {waits}" if gate.state == "open" else gate.word
        out.print(f"gate {gate.gate} {gate.name}: the vote of {actor} counts; {then}", soft_wrap=True)
    for refusal in result.refused:
        out.print(f"gate {refusal.gate}: refused, {refusal.why}. {refusal.remedy}", style="red", soft_wrap=True)
    if not result.decided and not result.refused:
        out.print(f"No open gate is for {actor} to decide.")


def _renewed(settings: Settings, file: GatesFile, book: GateBook, gates: Sequence[Gate]) -> list[Gate]:
    # What reads fingerprints and proofs parses SQL: loaded when there is a gate to look at.
    from comporta.gates.evidence import renew

    return renew(settings, file, book, gates, actor=f"cli:{getpass.getuser()}")


def _person(settings: Settings, file: GatesFile, login: str | None) -> str:
    if login is None:
        return file.person_of_cli(getpass.getuser())
    password = os.environ.get("COMPORTA_WEB_PASSWORD") or getpass.getpass(f"Password of {login} for Airflow: ")
    # HTTP is only needed to sign in.
    from comporta.gates.sign_in import sign_in

    sign_in(settings, login, password)
    return login


def _table(gates: Sequence[Gate]) -> Table:
    table = Table("gate", "name", "state", "question", "until (UTC)", "missing", box=None, pad_edge=False)
    for gate in gates:
        missing = ", ".join(f"{each.count} × {each.role}" for each in gate.missing) if gate.state == "open" else ""
        blocked = f" · {len(gate.blockers)} blocker(s)" if gate.blockers and gate.state == "open" else ""
        table.add_row(
            str(gate.gate),
            Text(gate.name),
            Text(gate.word, style=_STYLES[gate.state]),
            Text(gate.question.splitlines()[0]),
            _when(gate.deadline),
            Text(missing + blocked),
        )
    return table


def _when(moment: datetime) -> str:
    left = moment - datetime.now(UTC)
    soon = f" (in {left // timedelta(minutes=1)} min)" if timedelta() < left < timedelta(hours=2) else ""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}{soon}"


def _out() -> Console:
    return Console(markup=False, emoji=False, highlight=False)
