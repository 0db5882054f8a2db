"""The tasks of ``post``, and the trigger that wakes it: the ledger's notifications, and the clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, BaseOperator, task
from airflow.sdk.configuration import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from comporta.errors import ComportaError
from comporta.orchestration.connections import conninfo
from comporta.settings import load_settings

if TYPE_CHECKING:
    from comporta.notices.letters import Pages

CONTROL = "control"
LOOK_EVERY_S = 30.0
PAUSE_S = 1.0
RETRY_AFTER_S = 10.0

log = logging.getLogger(__name__)


class PostTrigger(BaseTrigger):
    """Fires when a mail is due. Until then it looks at the gates and the ledger when the ledger says so, and each half minute.

    What it has seen is in the database: another triggerer, or the same one after a crash, goes on from there.
    """

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Nothing but the class: addresses and passwords are looked up where it runs."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, fire when a mail is due, else wait for the ledger; a database that is away is waited for."""
        while True:
            try:
                async with aclosing(_looks()) as looks:
                    async for due in looks:
                        if due:
                            break
                yield TriggerEvent({"due": True})  # type: ignore[no-untyped-call]
                return
            except ComportaError as error:
                self.log.warning("%s; another look in %.0f s", error.message, RETRY_AFTER_S)
                await asyncio.sleep(RETRY_AFTER_S)


async def _looks() -> AsyncGenerator[bool, None]:
    """True for each look that found a mail due; between looks the ledger's notifications are waited for."""
    import psycopg

    # The triggerer answers for connections in its own loop, which only sync_to_async finds from a thread.
    dsn = await sync_to_async(control_dsn)()
    try:
        async with await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, application_name="comporta/post"
        ) as conn:
            await conn.execute("listen comporta_ledger")  # before the first look: what comes after it wakes
            while True:
                wait_s = await asyncio.to_thread(_look, dsn)
                yield wait_s is not None and wait_s <= 0
                limit = LOOK_EVERY_S if wait_s is None else min(LOOK_EVERY_S, wait_s)
                await asyncio.sleep(PAUSE_S)  # a stage writes many events in a row
                async for _ in conn.notifies(timeout=max(0.0, limit - PAUSE_S), stop_after=1):
                    pass
    except psycopg.OperationalError as error:
        raise ComportaError(f"the control database is away: {' '.join(str(error).split())}") from error


def control_dsn() -> str:
    """The control database, as Airflow's connection says."""
    return conninfo(BaseHook.get_connection(CONTROL))


def _look(dsn: str) -> float | None:
    from comporta.gates import GateBook
    from comporta.gates.policy import policy_of
    from comporta.notices.outbox import Outbox, look_around

    with Outbox(dsn) as outbox, GateBook(dsn) as book:
        return look_around(outbox, book, policy_of(load_settings()), pages())


def pages() -> Pages:
    """The addresses that letters lead to."""
    from comporta.notices.letters import Pages

    return Pages(str(conf.get("api", "base_url", fallback="")).rstrip("/"))


class WaitForMail(BaseOperator):
    """Waits, without a worker, until a mail is due; meanwhile reminders and expiries of gates are recorded on time."""

    def execute(self, context: Any) -> None:  # noqa: ARG002 - Airflow's signature
        """Hand over to the triggerer; there is no end to waiting."""
        trigger = PostTrigger()  # type: ignore[no-untyped-call]
        self.defer(trigger=trigger, method_name="go_on")

    def go_on(self, context: Any, event: dict[str, Any]) -> None:  # noqa: ARG002 - Airflow's signature
        """A mail is due."""
        self.log.info("a mail is due")


@task
def send_mail() -> dict[str, int]:
    """Send what is due, put off what is not taken, give up what was refused. Touches the mail server and comporta.mail."""
    from comporta.notices.outbox import Outbox
    from comporta.orchestration.mail import post

    # No error of ours ends the retries here: a run that failed for good would be followed by the next at once.
    with Outbox(control_dsn()) as outbox, post() as send:
        done = outbox.deliver(send)
    log.info("sent %s, put off %s, failed %s", len(done.sent), len(done.put_off), len(done.failed))
    return {"sent": len(done.sent), "put_off": len(done.put_off), "failed": len(done.failed)}
