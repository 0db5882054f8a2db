"""Evidence as it is now, for those who look at gates: collected beside the request, shared, and kept for a few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from comporta.errors import ComportaError

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True)
class NoData:
    """The evidence could not be collected, and why. No data is not good news: nobody may say Go on it."""

    why: str


@dataclass(frozen=True)
class _Look(Generic[T]):
    started_at: float
    found: Future[T]


class EvidenceWatch(Generic[K, T]):
    """Calls ``collect`` for a key at most once at a time, and not again for ``keep_s`` seconds after it began.

    Collecting asks servers that may not answer. So it runs in two threads of its own: however many people look, they
    share one look, wait ``patience_s`` seconds at most, and leave the API server's own threads alone.
    """

    def __init__(
        self,
        collect: Callable[[K], T],
        *,
        keep_s: float = 3.0,
        patience_s: float = 8.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._collect = collect
        self._keep_s = keep_s
        self._patience_s = patience_s
        self._clock = clock
        self._looks: dict[K, _Look[T]] = {}
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="evidence")

    def look(self, key: K) -> T | NoData:
        """The evidence under ``key``, a few seconds old at most, or why there is none."""
        try:
            return self._current(key).result(timeout=self._patience_s)
        except ComportaError as error:
            return NoData(error.message)
        except TookTooLong:
            return NoData(f"collecting it takes longer than {self._patience_s:g} seconds")
        except Exception:
            log.exception("evidence could not be collected", extra={"evidence": key})
            return NoData("collecting it failed; the API server's log says how")

    def _current(self, key: K) -> Future[T]:
        with self._lock:
            now = self._clock()
            look = self._looks.get(key)
            if look is None or (look.found.done() and now - look.started_at >= self._keep_s):
                look = self._looks[key] = _Look(now, self._threads.submit(self._collect, key))
            return look.found
