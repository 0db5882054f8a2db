"""Evidence as it is now, for those who look at gates: collected beside the request, shared, and kept for a few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

from comporta.errors import ComportaError
from comporta.gates import Gate
from comporta.gates.evidence import Evidence
from comporta.gates.gate import Kind

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoData:
    """The evidence could not be collected, and why. No data is not good news: nobody may say Go on it."""

    why: str


class Collects(Protocol):
    """What ``comporta.gates.evidence.Collector`` does: one look at everything, read once for all gates that share it."""

    def of(self, name: str, kind: Kind, asked_by: Mapping[str, Any]) -> Evidence:
        """What the gate of that name rests on."""


class EvidenceWatch:
    """One look at everything that gates rest on serves all who ask within ``keep_s`` seconds; then a new one begins.

    Collecting asks servers that may not answer, so it runs in a thread of its own: however many people look, they share
    one look, wait ``patience_s`` seconds at most for all gates of a list together, and leave the API server's own
    threads alone.
    """

    def __init__(
        self,
        begin: Callable[[], Collects],
        *,
        keep_s: float = 3.0,
        patience_s: float = 8.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._begin = begin
        self._keep_s = keep_s
        self._patience_s = patience_s
        self._clock = clock
        self._lock = Lock()
        self._look: _Look | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evidence")

    def look(self, gates: Iterable[Gate]) -> dict[int, Evidence | NoData]:
        """The evidence of each gate by its number, a few seconds old at most, or why there is none."""
        with self._lock:
            asked = self._current().ask(gates)
        wait(asked.values(), timeout=self._patience_s)
        return {number: self._outcome(found) for number, found in asked.items()}

    def _current(self) -> _Look:
        """A look that is still under way is the current one however long it takes: a server that hangs is asked once."""
        now = self._clock()
        if self._look is None or (self._look.is_done() and now - self._look.began_at >= self._keep_s):
            self._look = _Look(self._thread, self._begin, now)
        return self._look

    def _outcome(self, found: Future[Evidence | NoData]) -> Evidence | NoData:
        if not found.done():
            return NoData(f"collecting it takes longer than {self._patience_s:g} seconds")
        return found.result()


class _Look:
    """One collector, begun when its first gate is asked for, and what it found for each gate."""

    def __init__(self, thread: ThreadPoolExecutor, begin: Callable[[], Collects], began_at: float) -> None:
        self.began_at = began_at
        self._thread = thread
        self._begin = begin
        self._collector: Collects | None = None
        self._found: dict[int, Future[Evidence | NoData]] = {}
        self._without: dict[tuple[str, Kind], NoData] = {}

    def is_done(self) -> bool:
        return all(found.done() for found in self._found.values())

    def ask(self, gates: Iterable[Gate]) -> dict[int, Future[Evidence | NoData]]:
        asked = {}
        for gate in gates:
            if gate.gate not in self._found:
                self._found[gate.gate] = self._thread.submit(self._collect, gate)
            asked[gate.gate] = self._found[gate.gate]
        return asked

    def _collect(self, gate: Gate) -> Evidence | NoData:
        # Gates of one name rest on the same servers: one that is away is waited for once in a look, not once a gate.
        key = (gate.name, gate.kind)
        if key in self._without:
            return self._without[key]
        try:
            if self._collector is None:
                self._collector = self._begin()
            return self._collector.of(gate.name, gate.kind, gate.asked_by)
        except ComportaError as error:
            self._without[key] = NoData(error.message)
        except Exception:
            log.exception("the evidence of gate %s could not be collected", gate.gate)
            self._without[key] = NoData("collecting it failed; the API server's log says how")
        return self._without[key]
