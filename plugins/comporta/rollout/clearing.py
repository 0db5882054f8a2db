"""Clear to roll back: what the task ``rollback`` of a change has to do when Airflow runs it. Pure.

The task runs whatever came before it, once to arm itself, and again whenever somebody clears it. Airflow tells
neither who wants what, so the ledger is asked: with the last event that carried the change forward, and with the
*clear cycle* of the task, which a person's clear moves and a retry does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from comporta.rollout.standing import Standing, State

Kind = Literal["nothing", "arm", "armed", "roll back"]
Why = Literal["automatic", "cleared", "asked"]

CLEAR_ME = "clear this task to roll {change} back"
AGAIN = " (taken up again)"


@dataclass(frozen=True)
class Clear:
    """A clear that the API server saw: who, with which note, and whether the change's rollback alone was meant."""

    event: int
    login: str
    note: str | None
    rollback_alone: bool


@dataclass(frozen=True)
class Decision:
    """What is to be done, why, and what to tell people."""

    kind: Kind
    because: str
    why: Why = "automatic"


def decide(standing: Standing, *, run: str, cycle: int, clear: Clear | None) -> Decision:
    """What the rollback task of ``standing.change`` in ``run`` has to do in this ``cycle``.

    ``clear`` is the last clear of the task that is on record. It is not needed: where the API server could not
    record it, the cycle tells that a person asked, though not who.
    """
    name = standing.change
    asked = clear if clear and clear.rollback_alone and clear.event > standing.forward else None
    match standing.state:
        case State.ABSENT | State.ROLLED_BACK:
            by = f" ({standing.state} by {standing.actor})" if standing.actor else ""
            return Decision("nothing", f"{name} is not on the target{by}: there is nothing to roll back")
        case State.ROLLING_BACK:
            why: Why = "automatic" if standing.by_itself else "cleared"
            said = standing.because or f"the rollback of {name} had begun"
            return Decision("roll back", f"{said.removesuffix(AGAIN)}{AGAIN}", why)
        case _ if standing.run != run:
            there = f"{name} was applied again by {standing.run}"
            return Decision("nothing", f"{there}: clear its task there, or use the DAG rollback")
        case State.IN_PLACE:
            return _of_one_in_place(standing, cycle, clear)
        case _ if asked:
            return Decision("roll back", _in_words(asked), "cleared")
    because = f": {standing.because}" if standing.because else ""
    return Decision("roll back", f"{name} is {standing.state}{because}")


def _of_one_in_place(standing: Standing, cycle: int, clear: Clear | None) -> Decision:
    armed = standing.armed if standing.armed and standing.armed.forward == standing.forward else None
    since = armed.event if armed else standing.forward
    latest = clear if clear and clear.event > since else None
    # Who cleared more than the rollback meant something else, also where none of the rest has come to run.
    meant = latest.rollback_alone if latest else armed is not None and armed.cycle < cycle
    if meant:
        return Decision("roll back", _in_words(latest), "cleared")
    return Decision("armed" if armed and not latest else "arm", CLEAR_ME.format(change=standing.change))


def _in_words(clear: Clear | None) -> str:
    if clear is None:
        return "a person cleared the task"
    return f"{clear.login} cleared the task" + (f": {clear.note}" if clear.note else "")
