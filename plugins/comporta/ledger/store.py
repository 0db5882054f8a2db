"""Reading and writing the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, Self, TypeVar

import psycopg
from psycopg.rows import class_row, tuple_row

from comporta.errors import UnreachableServer
from comporta.ledger.errors import (
    GuardedStream,
    IdempotencyConflict,
    LedgerBusy,
    LedgerError,
    LedgerNotInstalled,
    VersionConflict,
)
from comporta.ledger.event import Event, NewEvent
from comporta.ledger.export import export
from comporta.ledger.projection import Difference, Projection, as_of, differences
from comporta.ledger.state import StreamState
from comporta.ledger.verification import Anchored, Head, Verification, verify
from comporta.postgres.queries import load

_CHANNEL: LiteralString = "listen comporta_ledger"
_PAGE = 1_000

T = TypeVar("T")


class Ledger:
    """The ledger behind a connection string, or behind a connection whose transactions remain the caller's.

    Given a connection string it signs in by itself, in autocommit, with the rights of ``comporta_app`` only (read and
    append), and waits at most ``lock_timeout_ms`` for other writers. Use it in one thread at a time.
    """

    def __init__(self, source: str | psycopg.Connection, *, lock_timeout_ms: int = 10_000) -> None:
        self._lock_timeout_ms = lock_timeout_ms
        self._dsn = source if isinstance(source, str) else None
        self._conn = self._connect(source) if isinstance(source, str) else source
        self._appending = self._conn.cursor(row_factory=tuple_row)  # making one costs a tenth of an append

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connection(self) -> psycopg.Connection:
        """The connection behind it, for the rooms whose events only functions of the database may write."""
        return self._conn

    def close(self) -> None:
        """Close the connection that this ledger opened; a connection that was handed in stays open."""
        if self._dsn is not None:
            self._conn.close()

    def append(
        self, stream: str, events: Sequence[NewEvent], *, expected_version: int | None = None
    ) -> tuple[int, ...]:
        """Append to one stream as one block, and return the ids in the order given; all or nothing.

        ``expected_version`` is the version last seen (0: the stream is new, None: any), else VersionConflict. An event
        whose idempotency key is known with the same content is not written again: its first id is returned;
        with other content it is an IdempotencyConflict. So repeating a call whose outcome is unknown is safe.
        """
        try:
            document = json.dumps([vars(event) for event in events], default=_mapping, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise LedgerError(
                f'a payload for stream "{stream}" is not JSON: {error}; nothing was written',
                remedy="Use text, finite numbers, booleans, null, lists and objects with text keys.",
            ) from error
        with _translated():
            row = self._appending.execute(
                load("comporta.ledger", "append.sql"), (stream, expected_version, document), prepare=True
            ).fetchone()
        return tuple(row[0]) if row else ()

    def read(
        self, stream: str | None = None, after: int = 0, limit: int = _PAGE, *, event_type: str | None = None
    ) -> list[Event]:
        """Up to ``limit`` events with an id above ``after``, oldest first, of one stream and type or of all."""
        name = "read.sql" if stream is None else "read_stream.sql"
        return self._fetch(Event, name, {"stream": stream, "after": after, "limit": limit, "event_type": event_type})

    def every(self, *, stream: str | None = None, event_type: str | None = None) -> Iterator[Event]:
        """Every event, oldest first, of one stream and type or of all, page after page."""
        after = 0
        while page := self.read(stream, after=after, event_type=event_type):
            yield from page
            after = page[-1].id

    def latest(self, limit: int, *, stream: str | None = None, event_type: str | None = None) -> list[Event]:
        """The newest ``limit`` events, oldest first, of one stream and type or of all."""
        return self._fetch(Event, "latest.sql", {"stream": stream, "limit": limit, "event_type": event_type})[::-1]

    def current_state(self, stream_prefix: str = "") -> list[StreamState]:
        """The last event of each stream whose name begins with ``stream_prefix``, latest first."""
        return self._fetch(StreamState, "current_state.sql", (stream_prefix,))

    def head(self) -> Head | None:
        """The last block, which vouches for everything before it; None while the ledger is empty."""
        heads = self._fetch(Head, "head.sql", ())
        return heads[0] if heads else None

    def hash_of(self, block: int) -> bytes | None:
        """The hash of a block, None when there is no such block."""
        with _translated():
            row = self._conn.execute(load("comporta.ledger", "hash_of.sql"), (block,)).fetchone()
        return bytes(row[0]) if row else None

    def verify(
        self, *, progress: Callable[[int, int], None] | None = None, anchors: Sequence[Anchored] = ()
    ) -> Verification:
        """Recompute the whole chain (see ``comporta.ledger.verify``)."""
        with _translated():
            return verify(self._conn, progress=progress, anchors=anchors)

    def export(
        self,
        path: Path,
        *,
        stream: str | None = None,
        until: datetime | None = None,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Write a copy of the ledger (see ``comporta.ledger.export``)."""
        with _translated():
            return export(self._conn, path, stream=stream, until=until, force=force, progress=progress)

    def last_at(self, moment: datetime) -> int:
        """The id of the last event that was recorded by then; 0 when there was none."""
        with _translated():
            row = self._conn.execute(load("comporta.ledger", "last_at.sql"), (moment,)).fetchone()
        return int(row[0]) if row else 0

    def as_of(self, projection: Projection, upto: int) -> list[Mapping[str, Any]]:
        """Where a projection stood after the event of that id, rebuilt from the events."""
        with _translated():
            return as_of(self._conn, projection, upto)

    def differences(self, projection: Projection) -> list[Difference]:
        """Rows in which the live projection is not what the events add up to."""
        with _translated():
            return differences(self._conn, projection)

    def tail(self, after: int, *, wake_up_timeout_s: float = 5.0, stop: Callable[[], bool]) -> Iterator[Event]:
        """Every event with an id above ``after``, once and in order, as they are committed, until ``stop()`` is true.

        A notification only wakes it: events are pulled by id, at the latest after ``wake_up_timeout_s``, which is also
        the longest that ``stop`` may go unasked. A ledger over a connection needs that connection in autocommit.
        """
        with self._listening() as conn:
            while not stop():
                page = self._page(conn, after)
                for event in page:
                    yield event
                    after = event.id
                if not page:
                    _wait(conn, wake_up_timeout_s)

    def _page(self, conn: psycopg.Connection, after: int) -> list[Event]:
        with _translated(), conn.cursor(row_factory=class_row(Event)) as cursor:
            return cursor.execute(
                load("comporta.ledger", "read.sql"), {"after": after, "limit": _PAGE, "event_type": None}
            ).fetchall()

    def _fetch(self, kind: type[T], name: str, values: Any) -> list[T]:
        with _translated(), self._conn.cursor(row_factory=class_row(kind)) as cursor:
            return cursor.execute(load("comporta.ledger", name), values).fetchall()

    def _connect(self, dsn: str) -> psycopg.Connection:
        try:
            conn = psycopg.connect(dsn, autocommit=True, application_name="comporta ledger")
        except psycopg.OperationalError as error:
            raise UnreachableServer(
                f"the control database does not answer or refuses the sign-in: {error}",
                remedy="Start it, or correct its connection settings.",
            ) from error
        try:
            with _translated():
                conn.execute(load("comporta.ledger", "session.sql"), (f"{self._lock_timeout_ms}ms",))
        except BaseException:
            conn.close()
            raise
        return conn

    @contextmanager
    def _listening(self) -> Iterator[psycopg.Connection]:
        if self._dsn is None and not self._conn.autocommit:
            raise LedgerError("tail needs a connection in autocommit: notifications arrive between transactions only")
        conn = self._connect(self._dsn) if self._dsn is not None else self._conn
        try:
            conn.execute(_CHANNEL)  # before the first pull: what commits after that pull sends a wake-up
            yield conn
        finally:
            if self._dsn is not None:
                conn.close()
            elif not conn.closed:
                conn.execute("unlisten comporta_ledger")


def _mapping(value: object) -> dict[Any, Any]:
    """Let any mapping be a payload, not only a dict."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} {value!r:.80}")


def _wait(conn: psycopg.Connection, timeout_s: float) -> None:
    for _ in conn.notifies(timeout=timeout_s, stop_after=1):
        pass


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the server says into the error that a caller would treat differently."""
    try:
        yield
    except psycopg.Error as error:
        raise _translate(error) from error


def _translate(error: psycopg.Error) -> Exception:
    said = error.diag.message_primary or str(error)
    hint = error.diag.message_hint or ""
    key_twice = error.diag.constraint_name == "event_idempotency_key"
    no_role = error.sqlstate == "22023" and "comporta_app" in said
    match error.sqlstate:
        case "LG001" | "LG002" | "LG005":
            return _refusal(error)
        case "23505" if key_twice:
            key = (error.diag.message_detail or "").partition(")=(")[2].rpartition(") already")[0]
            return IdempotencyConflict(key, event_id=None, differs="occurs twice in one call")
        case state if no_role or state in ("3F000", "42P01", "42883"):
            return LedgerNotInstalled(
                f"the control database has no ledger, or an older one: {said}",
                remedy="Apply the migrations of sql/control: comporta.ledger.migrate.",
            )
        case "55P03":
            return LedgerBusy(
                "another writer held the ledger for longer than the lock budget; nothing was written",
                remedy="Find the session that appended and did not commit: pg_locks, locktype advisory, granted.",
            )
        case str(state) if not state.startswith(("08", "57")):
            return LedgerError(f"the ledger refused: {said}; nothing was written", remedy=hint)
        case _:  # the connection is gone: whether the call was committed is not known
            return error


def _refusal(error: psycopg.Error) -> Exception:
    if error.sqlstate == "LG005":
        return GuardedStream(f"{error.diag.message_primary}; nothing was written", remedy=error.diag.message_hint or "")
    detail = json.loads(error.diag.message_detail or "{}")
    if error.sqlstate == "LG001":
        return VersionConflict(detail["stream"], expected=detail["expected"], found=detail["found"])
    return IdempotencyConflict(detail["idempotency_key"], event_id=detail["id"], differs=detail["differs"])
