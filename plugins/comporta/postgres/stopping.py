"""Ends what runs on servers when somebody asks for it: from a signal handler, another thread, or on the way out of an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from comporta.errors import ComportaError, StatementFailed
from comporta.postgres.connection import Connection

_CANCEL_WITHIN_S = 2.0
_AGAIN_AFTER_S = 0.2


class Stopped(ComportaError):
    """Somebody asked for the work to end: the statement that ran was cancelled, what ran before it stays."""

    transient = True

    def __init__(self, said: str) -> None:
        super().__init__(
            f"stopped because it was asked to: {said}",
            remedy="What ran before stays. The same script run again continues, or its rollback takes it back.",
        )


class StopSwitch:
    """Ends the statements of the sessions that it watches, once ``stop`` is called, and lets no further one begin."""

    def __init__(self) -> None:
        self._sessions: list[Connection] = []
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """True since somebody called ``stop``."""
        return self._stopped

    def stop(self) -> None:
        """Cancel what runs. Returns at once, and may be called from a signal handler: it takes no lock and writes no log."""
        if not self._stopped:
            self._stopped = True
            threading.Thread(target=self._cancel_until_left, name="comporta stop", daemon=True).start()

    def check(self) -> None:
        """Raise Stopped when somebody called ``stop``; for the places between two statements."""
        if self._stopped:
            raise Stopped("the next statement was not begun")

    @contextmanager
    def watch(self, conn: Connection) -> Iterator[None]:
        """Within the block, ``stop`` cancels what runs on ``conn``, and the block then ends with Stopped and ``conn`` closed:
        a cancel that comes late must not hit what it was not meant for.

        A statement that is still under way when the block is left, because of a time-out of the task for instance, is
        cancelled, too.
        """
        self._sessions.append(conn)
        try:
            self.check()  # after the append: a stop in between finds either this check or the session
            yield
        except (StatementFailed, psycopg.Error) as error:
            if self._stopped:
                raise Stopped(error.message if isinstance(error, StatementFailed) else str(error)) from error
            raise
        finally:
            self._sessions.remove(conn)
            if not conn.closed and conn.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                _cancel(conn)
            if self._stopped:
                conn.close()

    def _cancel_until_left(self) -> None:
        # More than once: the first may come a moment before the statement does.
        while sessions := tuple(self._sessions):
            for conn in sessions:
                _cancel(conn)
            time.sleep(_AGAIN_AFTER_S)


def _cancel(conn: Connection) -> None:
    with suppress(psycopg.Error):  # a server that is gone runs nothing
        conn.cancel_safe(timeout=_CANCEL_WITHIN_S)
