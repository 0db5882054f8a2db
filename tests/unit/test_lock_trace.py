"""What the lock trace makes of the looks that it is told, where no server can be asked to stop in the right moment."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from comporta.dryrun.locks import ACCESS_EXCLUSIVE, LockTrace


def looks(*told: dict[str, Any]) -> LockTrace:
    """A trace that was told these looks, as the loop in the server tells them."""
    trace = LockTrace("", applications=("worker",))
    for look in told:
        diagnostic: Any = SimpleNamespace(severity_nonlocalized="INFO", message_primary=json.dumps(look))
        trace._receive(diagnostic)
    return trace


def test_a_look_in_the_middle_of_a_commit_does_not_make_two_holds_of_one() -> None:
    """There the transaction has lost its number and its new table can be seen, and the lock is held for a moment more."""
    held = f"42 5/17 900 {ACCESS_EXCLUSIVE} t 0"
    ending = f"42 5/0 900 {ACCESS_EXCLUSIVE} t 0"
    trace = looks(
        {"at": 10.0, "before": 9.9, "locks": held, "sessions": {"42": "client backend|worker"}},
        {"at": 10.1, "before": 10.0, "locks": ending, "names": {"900": "catalogue.fresh"}},
        {"at": 10.2, "before": 10.1, "locks": ""},
    )
    [hold] = trace.holds()
    assert hold.new_object
    assert (hold.first_seen, hold.last_seen) == (10.0, 10.1)


def test_the_next_transaction_after_a_commit_is_a_hold_of_its_own() -> None:
    def by(transaction: str) -> str:
        return f"42 {transaction} 900 {ACCESS_EXCLUSIVE} t 0"

    trace = looks(
        {"at": 10.0, "before": 9.9, "locks": by("5/17"), "sessions": {"42": "client backend|worker"}},
        {"at": 10.1, "before": 10.0, "locks": by("5/0")},
        {"at": 10.2, "before": 10.1, "locks": by("5/18")},
        {"at": 10.3, "before": 10.2, "locks": ""},
    )
    assert [(hold.first_seen, hold.last_seen) for hold in trace.holds()] == [(10.0, 10.1), (10.2, 10.2)]
