"""Where a rollout's time goes beside its scripts: the engine's own calls timed from outside, each second counted once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from comporta.ledger import Ledger
from comporta.proof import fingerprint
from comporta.rollout import checks, engine, record, target
from comporta.rollout.go import Go


@dataclass
class Spent:
    """Seconds by what they went to, without what was inside of it and has a name of its own; of the thread that made this."""

    seconds: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    _open: list[float] = field(default_factory=list)
    _thread: int = field(default_factory=threading.get_ident)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Time the body."""
        if threading.get_ident() != self._thread:
            yield
            return
        began = time.perf_counter()
        self._open.append(0.0)
        try:
            yield
        finally:
            whole = time.perf_counter() - began
            self.seconds[what] += whole - self._open.pop()
            self.calls[what] += 1
            if self._open:
                self._open[-1] += whole

    def timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.on(what):
                return function(*args, **kwargs)

        return call

    def around(self, what: str, manager: Callable[..., Any]) -> Callable[..., Any]:
        """A context manager of which entering and leaving are timed, and not the body."""

        @contextmanager
        def enter(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with ExitStack() as stack:
                with self.on(what):
                    inner = ExitStack()
                    value = inner.enter_context(manager(*args, **kwargs))
                stack.push(self.timed(what, inner.__exit__))
                yield value

        return enter

    def taken(self) -> dict[str, float]:
        """What was spent since the last call, largest first."""
        found = {what: round(seconds, 3) for what, seconds in self.seconds.most_common()}
        self.seconds.clear()
        return found


@contextmanager
def measured() -> Iterator[Spent]:
    """The engine of this process, timed while the body runs."""
    spent = Spent()
    functions = [
        ("script", target, "run_script"),
        ("support scripts", engine, "run_script"),
        ("fingerprint", fingerprint, "take"),
        ("fingerprint: facts kept", record.Record, "keep"),
        ("fingerprint: compared", record.Record, "compare"),
        ("ledger: append", Ledger, "append"),
        ("ledger: read", Ledger, "read"),
        ("ledger: read", Ledger, "latest"),
        ("ledger: read", Ledger, "every"),
        ("ledger: folded", record.Record, "board"),
        ("health: asked", engine.Rollout, "_health"),
        ("health: soak", engine.Rollout, "_soak"),
        ("gate asked", Go, "refusals"),
        ("proofs looked up", checks, "proofs"),
        ("lock trace: settled", target.Target, "_locks"),
    ]
    managers = [
        ("claim", engine, "claimed"),
        ("health: monitor started and stopped", engine, "monitoring"),
        ("lock trace: started and stopped", target, "_traced"),
        ("health: guard started and stopped", target.Target, "_guarded"),
    ]
    with ExitStack() as stack:
        for what, owner, name in functions:
            stack.enter_context(mock.patch.object(owner, name, spent.timed(what, getattr(owner, name))))
        for what, owner, name in managers:
            stack.enter_context(mock.patch.object(owner, name, spent.around(what, getattr(owner, name))))
        yield spent
