"""What is in the way of a gate's Go: checklist items that it requires, and owners of its daily sync who are not ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comporta.gates.policy import GatePlan, GatesFile
from comporta.ledger import Ledger
from comporta.settings import Settings
from comporta.sync import record
from comporta.sync.checklist import OF_A_SYNC, Facts, check
from comporta.sync.model import Item


class Standing:
    """One look at the checklist for any number of gates: an item that several gates require is checked once."""

    def __init__(self, settings: Settings, file: GatesFile) -> None:
        self._settings = settings
        self._file = file
        self._items: dict[tuple[str, str], Item] = {}

    def in_the_way(self, plan: GatePlan, asked_by: Mapping[str, Any]) -> tuple[str, ...]:
        """A line for each, in words that change only when the facts do: a gate's votes are bound to them.

        An item that was put right is gone from the list without anybody asking again. Answers of owners are those of the
        last check of the sync that put the gate: clear the owner's question to have it asked anew.
        """
        of_a_sync = asked_by.get("dag_id") == record.WORKFLOW
        if not plan.requires and not of_a_sync:
            return ()
        run_id = str(asked_by.get("run_id") or "") if of_a_sync else ""
        with Ledger(self._settings.require("control")) as ledger:
            sync = record.read(ledger, run_id)
            items = self._checked(ledger, sync, plan.requires)
        owners = [f"{each.owner} is not ready: {each.reason}" for each in sync.answers if each.status != "ready"]
        return (*(f"{item.id}: {item.detail}" for item in items if item.blocks), *owners)

    def _checked(self, ledger: Ledger, sync: record.Sync, names: tuple[str, ...]) -> list[Item]:
        keys = {name: (name, sync.run_id if name in OF_A_SYNC else "") for name in names}
        if missing := [name for name, key in keys.items() if key not in self._items]:
            facts = Facts(
                self._settings,
                self._file,
                ledger,
                now=record.now(ledger),
                answers=sync.answers,
                previous=record.previous_blockers(ledger, sync.run_id, sync.feature),
            )
            self._items |= {keys[item.id]: item for item in check(facts, missing)}
        return [self._items[keys[name]] for name in names]
