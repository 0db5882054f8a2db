"""What wakes a sensor that waits for a gate: the ledger moved, or time did.

However many gates wait, a triggerer has two connections for them: one that listens, one that asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, ClassVar
from uuid import UUID

import psycopg
from airflow.sdk import BaseHook
from airflow.sdk.execution_time.hitl import get_hitl_detail_content_detail
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from comporta.gates.gate import Gate
from comporta.orchestration.connections import conninfo
from comporta.postgres.queries import load

CONTROL = "control"
LOOK_AGAIN_S = 15.0
LONGEST_PAUSE_S = 30.0

log = logging.getLogger(__name__)


class _Watch:
    """One look at the ledger for every trigger of this process: wakes them all when it moves, and asks for them in turn."""

    _of_loop: ClassVar[dict[int, _Watch]] = {}

    def __init__(self) -> None:
        self._asking = asyncio.Lock()
        self._moved = asyncio.Event()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    def here(cls) -> _Watch:
        """The one of the running event loop."""
        return cls._of_loop.setdefault(id(asyncio.get_running_loop()), cls())

    async def ask(self, query: str, values: dict[str, Any]) -> tuple[Any, ...] | None:
        """The first row of a query; a lost connection is made anew, with patience."""
        pause_s = 1.0
        async with self._asking:
            while True:
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = await self._connect("comporta/gates")
                    return await (await self._connection.execute(query.encode(), values)).fetchone()
                except psycopg.OperationalError as error:
                    log.warning("the ledger does not answer, looked at again in %.0f s: %s", pause_s, error)
                    await self._drop()
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def next_move(self) -> asyncio.Event:
        """Set when the ledger has a new event. Taken before one looks, it cannot miss what comes while one looks."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        return self._moved

    async def _listen(self) -> None:
        try:
            async with await self._connect("comporta/gates listening") as connection:
                await connection.execute("listen comporta_ledger")
                while True:
                    self._wake()  # also after the first LISTEN: what came before it sent no wake-up
                    async for _ in connection.notifies(stop_after=1):
                        pass
        except psycopg.OperationalError as error:
            log.warning("no longer listening, the gates are looked at every %.0f s: %s", LOOK_AGAIN_S, error)

    def _wake(self) -> None:
        woken, self._moved = self._moved, asyncio.Event()
        woken.set()

    async def _connect(self, name: str) -> psycopg.AsyncConnection[Any]:
        found = await sync_to_async(BaseHook.get_connection)(CONTROL)
        connection = await psycopg.AsyncConnection.connect(
            conninfo(found), autocommit=True, application_name=name, connect_timeout=10
        )
        await connection.execute("set role comporta_app")
        return connection

    async def _drop(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


class GateTrigger(BaseTrigger):
    """Fires when a gate is not as it was ``seen``: one by its number, or the newest of a name that runs of a DAG opened.

    ``form`` is the id of the task instance whose form under Required Actions may have been answered already.
    """

    SOURCE = "ledger"

    def __init__(
        self,
        *,
        seen: str,
        gate: int | None = None,
        name: str | None = None,
        opened_by: str | None = None,
        form: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen
        self.gate = gate
        self.name = name
        self.opened_by = opened_by
        self.form = form

    @staticmethod
    def fact(gate: Gate | None) -> str:
        """What a sensor has seen of a gate, as gate_fact.sql says it."""
        return "" if gate is None else f"{gate.gate} {gate.state} {gate.revision}"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """No secret in it: the connection is looked up where it runs."""
        values = {
            "seen": self.seen,
            "gate": self.gate,
            "name": self.name,
            "opened_by": self.opened_by,
            "form": self.form,
        }
        return f"{type(self).__module__}.{type(self).__name__}", values

    async def _answered_already(self) -> dict[str, Any] | None:
        """The answer that was given under Required Actions while the task was about to park: nobody woke it for that."""
        if self.form is None:
            return None
        found = await sync_to_async(get_hitl_detail_content_detail)(ti_id=UUID(self.form))
        if found is None or not found.response_received:
            return None
        user = found.responded_by_user
        return {
            "source": "required actions",
            "chosen_options": list(found.chosen_options or ()),
            "params_input": found.params_input or {},
            "responded_by_user": user and {"id": user.id, "name": user.name},
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, sweep what is due, wait for the ledger to move, look again."""
        if answer := await self._answered_already():
            yield TriggerEvent(answer)  # type: ignore[no-untyped-call]
            return
        watch = _Watch.here()
        values = {"gate": self.gate, "name": self.name, "asker": f"{self.opened_by}/"}
        while True:
            move = watch.next_move()
            await watch.ask(load("comporta.gates", "sweep.sql"), {})
            row = await watch.ask(load("comporta.gates", "fact.sql"), values)
            fact, due_in_s = row or ("", None)
            if fact != self.seen:
                yield TriggerEvent({"source": self.SOURCE, "fact": fact})  # type: ignore[no-untyped-call]
                return
            pause_s = LOOK_AGAIN_S if due_in_s is None else min(LOOK_AGAIN_S, max(0.05, float(due_in_s)))
            with suppress(TimeoutError):
                await asyncio.wait_for(move.wait(), pause_s)
