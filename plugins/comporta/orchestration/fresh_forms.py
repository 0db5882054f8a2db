"""Draws the form under Required Actions anew each time that a task asks.

Airflow keeps the form of a task as it was first drawn: a retry and a clear take it along, and asking again only removes the answer.
A person would then read old evidence (and, with our gates, be refused for having read it). So when a task asks, what it asks with
is written to the form that is there. Where this does not run, nobody is let through: an answer refers to what its form showed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

_ASKS = re.compile(r"^/execution/hitlDetails/([0-9a-f-]{36})/?$")
_DRAWN = ("subject", "body", "params", "options")

log = logging.getLogger(__name__)


class FreshForms:
    """An ASGI middleware around the API server; ``draw`` writes a form."""

    def __init__(self, app: Any, draw: Callable[[UUID, Mapping[str, Any]], None] | None = None) -> None:
        self._app = app
        self._draw = draw or _draw

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass everything on; of a task that asks, keep what it asks with, and draw the form when Airflow has taken it."""
        found = _ASKS.match(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if not found:
            await self._app(scope, receive, send)
            return
        body = bytearray()
        status = 0

        async def heard() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def said(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            # Before the last of the answer is sent: what the task does next finds the form drawn.
            if message["type"] == "http.response.body" and not message.get("more_body") and status < 300:
                await asyncio.to_thread(self._safely, UUID(found[1]), bytes(body))
            await send(message)

        await self._app(scope, heard, said)

    def _safely(self, ti_id: UUID, body: bytes) -> None:
        try:
            asked = json.loads(body)
            self._draw(ti_id, {name: asked[name] for name in _DRAWN if asked.get(name) is not None})
        except Exception:
            log.exception("the form of task instance %s stays as it was drawn before", ti_id)


def _draw(ti_id: UUID, form: Mapping[str, Any]) -> None:
    # Only the API server has Airflow's models; every other process imports the plugin, too.
    from airflow.models.hitl import HITLDetail
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        session.execute(update(HITLDetail).where(HITLDetail.ti_id == ti_id).values(**form))
