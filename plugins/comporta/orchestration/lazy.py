"""An ASGI application that is imported at its first request: the API modules cost every task process 1.7 CPU seconds."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class LazyApp:
    """Stands for the application at ``module:attribute``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._app: App | None = None

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Import the application once, then pass everything on."""
        if self._app is None:
            module, _, attribute = self._path.partition(":")
            self._app = getattr(importlib.import_module(module), attribute)
        assert self._app is not None
        await self._app(scope, receive, send)
