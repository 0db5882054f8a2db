"""What is in the way of a gate's Go: checklist items that it requires, and owners of its daily sync who are not ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comporta.gates.policy import GatePlan, GatesFile
from comporta.ledger import Ledger
from comporta.settings import Settings
from comporta.sync import record
from comporta.sync.checklist import Facts, check


def in_the_way(settings: Settings, file: GatesFile, plan: GatePlan, asked_by: Mapping[str, Any]) -> tuple[str, ...]:
    """A line for each, in words that change only when the facts do; a gate's votes are bound to them.

    Checked anew at each call, so an item that was put right is gone from the list without anybody asking again. Answers
    of owners are those of the last check of the sync that put the gate: clear the owner's question to have it asked anew.
    """
    of_a_sync = asked_by.get("dag_id") == record.WORKFLOW
    if not plan.requires and not of_a_sync:
        return ()
    run_id = str(asked_by.get("run_id") or "") if of_a_sync else ""
    with Ledger(settings.require("control")) as ledger:
        sync = record.read(ledger, run_id)
        facts = Facts(
            settings,
            file,
            ledger,
            now=record.now(ledger),
            answers=sync.answers,
            previous=record.previous_blockers(ledger, run_id, sync.feature),
        )
        items = check(facts, plan.requires)
    owners = [f"{each.owner} is not ready: {each.reason}" for each in sync.answers if each.status != "ready"]
    return (*(f"{item.id}: {item.detail}" for item in items if item.blocks), *owners)
