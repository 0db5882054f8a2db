"""Puts on record who cleared what, and who marked what by hand, before a cleared task can ask.

A task that was cleared cannot learn from Airflow who did it, nor why. So every request to the API server that clears tasks or
marks their state, from the UI as from a program, is written to the ledger with the login, the tasks and the note once Airflow
has carried it out. The answer waits for that, two seconds at most: a clear is never refused, and with the control database away
only the log tells of it. What Airflow's endpoint for many task instances at once marks is not recorded; the mirror in
``listener`` has their states, without the login.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 2.0
NOBODY_KNOWN = "unknown"
_DAG = r"^/api/v2/dags/[^/]+"
_CLEARS = re.compile(_DAG + r"/(clearTaskInstances|clearDagRuns|dagRuns/[^/]+/clear)/?$")
_MARKS = re.compile(_DAG + r"/dagRuns/[^/]+(/taskInstances/[^/]+(/-?\d+)?|/taskGroupInstances/[^/]+)?/?$")
_NO = ("false", "f", "no", "n", "off", "0")  # as Airflow reads them

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Act:
    """What somebody did to one run: cleared ``tasks`` (``state`` None), or marked them; of a whole run they are not named.

    ``tasks`` is None where Airflow did not say which: the failed ones of a run.
    """

    dag_id: str
    run_id: str
    tasks: tuple[str, ...] | None
    whole_run: bool
    note: str | None
    state: str | None = None


class ClearsOnRecord:
    """An ASGI middleware around the API server. ``who`` tells the login behind a request, ``record`` writes to the ledger."""

    def __init__(
        self,
        app: Any,
        who: Callable[[Any], Awaitable[str]] | None = None,
        record: Callable[[str, Sequence[Act]], None] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._app = app
        self._who = who or _who
        self._record = record or _record
        self._patience_s = patience_s
        self._late: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass everything on; hold the answer to a clear until it is on record."""
        if not _concerns(scope):
            await self._app(scope, receive, send)
            return
        asked = bytearray()
        held: list[Any] = []

        async def heard() -> Any:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def said(message: Any) -> None:
            held.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await self._note(scope, bytes(asked), held)
                for each in held:
                    await send(each)
                held.clear()

        await self._app(scope, heard, said)

    async def _note(self, scope: Any, asked: bytes, answer: Sequence[Any]) -> None:
        if next((message["status"] for message in answer if "status" in message), 500) >= 300:
            return
        done = b"".join(message.get("body", b"") for message in answer)
        noting = asyncio.create_task(self._safely(scope, asked, done))
        self._late.add(noting)
        noting.add_done_callback(self._late.discard)
        _, late = await asyncio.wait({noting}, timeout=self._patience_s)
        if late:
            log.warning(
                "the ledger takes more than %.0f s for a clear (%s): its answer goes on",
                self._patience_s,
                scope["path"],
            )

    async def _safely(self, scope: Any, asked: bytes, done: bytes) -> None:
        acts: Sequence[Act] = ()
        try:
            acts = acts_of(scope["method"], json.loads(asked), json.loads(done))
            if acts:
                await asyncio.to_thread(self._record, await self._login(scope), acts)
        except Exception:
            log.exception("not in the ledger: %s %s %s", scope["method"], scope["path"], acts)

    async def _login(self, scope: Any) -> str:
        try:
            return await self._who(scope)
        except Exception:
            log.exception("who sent %s %s is not known", scope["method"], scope["path"])
            return NOBODY_KNOWN


def acts_of(method: str, asked: Mapping[str, Any], done: Mapping[str, Any]) -> tuple[Act, ...]:
    """What a request that was carried out did, one act a run: from what was asked, and what Airflow answers that it did."""
    state = None
    if method == "PATCH":
        state = asked.get("new_state") or asked.get("state")
        if not state:
            return ()  # a note only
    elif _yes(asked.get("dry_run", True)):
        return ()
    runs: dict[tuple[str, str], list[str]] = {}
    for task in done.get("task_instances", ()):
        tasks = runs.setdefault((task["dag_id"], task["dag_run_id"]), [])
        if task["task_id"] not in tasks:
            tasks.append(task["task_id"])
    found = [Act(*run, tuple(tasks), False, asked.get("note"), state) for run, tasks in runs.items()]
    for run in () if _yes(asked.get("only_new")) else done.get("dag_runs", [done] if "dag_run_id" in done else ()):
        whole = not _yes(asked.get("only_failed"))
        found.append(Act(run["dag_id"], run["dag_run_id"], () if whole else None, whole, asked.get("note"), state))
    return tuple(found)


def _yes(value: Any) -> bool:
    return value is not None and str(value).lower() not in _NO


def _concerns(scope: Any) -> bool:
    if scope["type"] != "http":
        return False
    routes = {"POST": _CLEARS, "PATCH": _MARKS}.get(scope["method"])
    return bool(routes and routes.match(scope["path"].removeprefix(scope.get("root_path", ""))))


def _stream(dag_id: str, run_id: str) -> str:
    return f"cleared/{dag_id}/{run_id}"


async def _who(scope: Any) -> str:
    # Only the API server has these; every other process imports the plugin, too.
    from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
    from fastapi import Request

    request = Request(scope)
    user = await get_user(request, None, await bearer_scheme(request))
    return user.get_name()


def _record(login: str, acts: Sequence[Act]) -> None:
    from comporta.ledger import NewEvent
    from comporta.orchestration.listener import bounded_ledger
    from comporta.settings import load_settings

    with bounded_ledger(load_settings().require("control")) as ledger:
        for act in acts:
            event = NewEvent(
                event_type="task_marked" if act.state else "task_cleared",
                feature=act.dag_id,
                actor=login,
                workflow="airflow",
                payload={
                    "tasks": list(_set_back(act) if act.tasks is None else act.tasks),
                    "note": act.note,
                    "run_id": act.run_id,
                    "whole_run": act.whole_run,
                    **({"state": act.state} if act.state else {}),
                },
            )
            ledger.append(_stream(act.dag_id, act.run_id), [event])


def _set_back(act: Act) -> list[str]:
    """The tasks of a run that stand as a clear leaves them."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import or_, select

    asked = select(TaskInstance.task_id).where(
        TaskInstance.dag_id == act.dag_id,
        TaskInstance.run_id == act.run_id,
        or_(TaskInstance.state.is_(None), TaskInstance.state.in_(["scheduled", "queued"])),
    )
    with create_session() as session:
        return sorted(set(session.scalars(asked)))
