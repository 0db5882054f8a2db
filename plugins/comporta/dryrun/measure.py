"""Run a script and measure each statement: locks, rewrites, WAL, temporary files, disk, duration, rows, errors.

The script runs statement by statement on one connection, as ``psql -f`` would. A statement that may run in a
transaction is wrapped in one, sent in a single message, so that its locks are read before its COMMIT: no lock is too
short to be seen, and the wrapping adds no round trip to the time that a lock is held. Statements that commit inside
(CALL, DO), and those that refuse a transaction (CONCURRENTLY, VACUUM), are sampled by ``locks.LockTrace``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any, Final, Self

import psycopg
from psycopg.rows import dict_row
from pydantic import TypeAdapter

from comporta.dryrun.locks import ACCESS_EXCLUSIVE, ExactLock, LockHold, LockTrace, LockWait, TraceQuality
from comporta.postgres.connection import Connection, connect
from comporta.postgres.execution import execute
from comporta.postgres.queries import load
from comporta.postgres.script import Script, Statement

Clock = Callable[[], float]
OnEvent = Callable[["Progress"], None]

_QUERIES: Final = "comporta.dryrun"
# PostgreSQL refuses these outside a transaction block: wrapping them would hide the error that psql would show.
_MEANINGLESS_ALONE: Final = frozenset({"LockStmt", "DeclareCursorStmt", "TransactionStmt"})
_NOTICES_KEPT: Final = 200
_DEFAULT_ROWS_COUNTED: Final = 100_000


@dataclass(frozen=True)
class RelationSize:
    """One table or index: ``bytes`` with its TOAST, ``total_bytes`` with its indexes, estimates by the statistics."""

    oid: int
    schema: str
    name: str
    kind: str
    bytes: int
    total_bytes: int
    rows_estimate: int
    dead_rows: int
    analyzed: bool
    valid: bool | None
    belongs_to: int
    parent: int
    replica_identity: str | None
    published: bool
    is_default: bool

    @property
    def qualified(self) -> str:
        """``schema.name``."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class CatalogueSnapshot:
    """Sizes, validity and stray rows of the catalogue at one moment; ``default_rows`` counts up to 100,000."""

    database_bytes: int
    relations: tuple[RelationSize, ...]
    not_valid_constraints: tuple[str, ...]
    default_rows: dict[str, int]

    @property
    def invalid_indexes(self) -> tuple[str, ...]:
        """Indexes that are maintained by every write and used by no query."""
        return tuple(
            relation.qualified for relation in self.relations if relation.valid is False and relation.kind == "i"
        )


@dataclass(frozen=True)
class Rewrite:
    """A relation whose file was replaced by a statement: its whole content was written again, or emptied."""

    relation: str
    kind: str
    bytes_before: int | None
    bytes_after: int | None
    seconds: float
    new_object: bool
    reachable: bool


@dataclass(frozen=True)
class StatementError:
    """Why a statement failed, where in the file, and what of the script did not run."""

    sqlstate: str
    message: str
    detail: str
    hint: str
    context: str
    file: str
    line: int
    statement_number: int
    headline: str
    not_run: tuple[str, ...]

    def __str__(self) -> str:
        extra = "".join(f"\n  {part}" for part in (self.detail, self.hint) if part)
        return (
            f"{self.file}:{self.line}: statement {self.statement_number} failed ({self.headline})\n"
            f"  {self.sqlstate}: {self.message}{extra}\n"
            f"  {len(self.not_run)} statement(s) after it did not run; what ran before it stays."
        )


@dataclass(frozen=True)
class StatementMeasurement:
    """One statement. ``transaction``: ``own`` (wrapped), ``script`` (its own BEGIN), ``none`` (sampled locks).

    ``started_at`` is epoch seconds of the server's clock. ``wal_source`` says whether ``wal_bytes`` is of this session
    alone (``session``) or of the whole server meanwhile (``server``, an upper bound under traffic).
    """

    number: int
    line: int
    headline: str
    kind: str
    started_at: float
    seconds: float
    rows: int
    status: str
    transaction: str
    lock_timeout_ms: int
    locks: tuple[LockHold, ...]
    rewrites: tuple[Rewrite, ...]
    wal_bytes: int
    wal_source: str
    temp_bytes: int
    notices: tuple[str, ...]
    error: StatementError | None = None


@dataclass(frozen=True)
class ScriptMeasurement:
    """One run of one script. Times are epoch seconds of the server's clock, sizes are bytes."""

    path: str
    stem: str
    sha256: str
    role: str
    pid: int
    started_at: float
    seconds: float
    statements: tuple[StatementMeasurement, ...]
    not_run: tuple[str, ...]
    waits_caused: tuple[LockWait, ...]
    own_waits: tuple[LockWait, ...]
    trace: TraceQuality
    wal_bytes: int
    temp_bytes: int
    peak_database_bytes: int
    peak_temp_bytes: int
    peak_wal_folder_bytes: int
    before: CatalogueSnapshot
    after: CatalogueSnapshot
    error: StatementError | None = None

    @property
    def ok(self) -> bool:
        """Whether every statement ran."""
        return self.error is None

    @property
    def window(self) -> tuple[float, float]:
        """Start and end, epoch seconds of the server's clock."""
        return self.started_at, self.started_at + self.seconds

    @property
    def locks(self) -> tuple[LockHold, ...]:
        """The locks of all statements, in order of acquisition."""
        return tuple(hold for statement in self.statements for hold in statement.locks)

    @property
    def longest_access_exclusive(self) -> LockHold | None:
        """The longest ACCESS EXCLUSIVE hold on anything that others can use."""
        holds = [hold for hold in self.locks if hold.mode == ACCESS_EXCLUSIVE and hold.reachable]
        return max(holds, key=lambda hold: hold.seconds, default=None)

    @property
    def longest_wait_caused(self) -> LockWait | None:
        """The longest that another session queued behind this script."""
        return max(self.waits_caused, key=lambda wait: wait.seconds, default=None)

    @property
    def disk_growth_peak_bytes(self) -> int:
        """The most that the database and its temporary files were above the size before."""
        return max(self.peak_database_bytes + self.peak_temp_bytes - self.before.database_bytes, 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` reads them back."""
        hold, wait = self.longest_access_exclusive, self.longest_wait_caused
        return {
            **asdict(self),
            "ok": self.ok,
            "error_text": str(self.error) if self.error else None,
            "longest_access_exclusive": asdict(hold) if hold else None,
            "longest_wait_caused": asdict(wait) if wait else None,
            "disk_growth_peak_bytes": self.disk_growth_peak_bytes,
        }

    to_json = to_dict

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote; further keys are left alone."""
        measured: Self = _adapter().validate_python({**record})
        return measured


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(ScriptMeasurement)


@dataclass(frozen=True)
class Progress:
    """A statement that is about to run, a notice that it sent, or (``seconds``) that it ended; ``str`` is one line."""

    number: int
    total: int
    line: int
    headline: str
    notice: str | None = None
    seconds: float | None = None
    error: str | None = None

    def __str__(self) -> str:
        place = f"{self.number}/{self.total}"
        if self.notice is not None:
            return f"{place} notice: {self.notice}"
        if self.error is not None:
            return f"{place} failed: {self.error}"
        return f"{place} {self.headline}" if self.seconds is None else f"{place} done in {self.seconds:.3f} s"


# -- the catalogue ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    """What a relation was at one moment, as far as telling rewrites and reachability needs."""

    schema: str
    name: str
    kind: str
    filenode: int
    valid: bool | None
    belongs_to: int
    parent: int

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


States = Mapping[int, _State]


def relation_sizes(conn: Connection) -> dict[str, int]:
    """Total bytes of each table and materialized view, with indexes and TOAST, by qualified name."""
    return {relation.qualified: relation.total_bytes for relation in _sizes(conn) if relation.kind in "rm"}


def take_snapshot(conn: Connection) -> CatalogueSnapshot:
    """Read the catalogue's sizes and validity; takes ACCESS SHARE for moments and never waits for more than 2 s."""
    relations = tuple(_sizes(conn))
    [database] = conn.execute("select pg_catalog.pg_database_size(pg_catalog.current_database())").fetchall()
    constraints = conn.execute(load(_QUERIES, "not_valid_constraints.sql")).fetchall()
    return CatalogueSnapshot(
        database_bytes=database[0],
        relations=relations,
        not_valid_constraints=tuple(name for (name,) in constraints),
        default_rows={r.qualified: _count(conn, r) for r in relations if r.is_default and r.kind == "r"},
    )


def _sizes(conn: Connection) -> Iterator[RelationSize]:
    with conn.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(load(_QUERIES, "relation_sizes.sql")):
            yield RelationSize(**row)


def _count(conn: Connection, relation: RelationSize) -> int:
    query = psycopg.sql.SQL("select count(*) from (select from {} limit %s) counted").format(
        psycopg.sql.Identifier(relation.schema, relation.name)
    )
    row = conn.execute(query, (_DEFAULT_ROWS_COUNTED,)).fetchone()
    return int(row[0]) if row else 0


def _states(conn: Connection) -> dict[int, _State]:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(load(_QUERIES, "relation_states.sql")).fetchall()
    return {row.pop("oid"): _State(**row) for row in rows}


def reachable(oid: int, now: States, before: States) -> bool:
    """Whether sessions other than the script's can come to wait for the relation.

    True for what existed before the script and still stands in its schema, and for what stands under a name that existed
    before. A partition or index is as reachable as what it belongs to. What a script prepares aside is not reachable
    until it takes such a place, and what it has put aside no longer is.
    """
    names = {state.qualified for state in before.values()}
    root, seen = oid, {oid}
    while root in now and (above := now[root].belongs_to or now[root].parent) and above not in seen:
        seen.add(above)
        root = above
    if root not in now or now[root].schema == "comporta":
        return False
    was = before.get(root)
    if was is not None and was.parent:
        return False  # a partition that was detached: traffic comes through the table that it belonged to
    return now[root].qualified in names or (was is not None and was.schema == now[root].schema)


# -- running ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moment:
    """Server time, WAL position in bytes, lock time-out and role, at a statement's start or end."""

    at: float
    lsn: int
    lock_timeout_ms: int
    role: str


@dataclass
class _Ran:
    """What is known of a statement right after it ran, before the trace has told all."""

    statement: Statement
    transaction: str
    started: _Moment
    ended: _Moment
    before: States
    after: States
    rows: int = -1
    status: str = ""
    exact: list[ExactLock] = field(default_factory=list)
    filenodes: dict[int, int] = field(default_factory=dict)
    own_wal: int | None = None
    temp_bytes: int = 0
    notices: list[str] = field(default_factory=list)
    error: StatementError | None = None


def measure_script(
    script: Script,
    dsn: str,
    *,
    role: str,
    on_event: OnEvent | None = None,
    lock_trace: LockTrace | None = None,
    clock: Clock = time.time,
) -> ScriptMeasurement:
    """Run ``script`` (``role`` is apply, verify or rollback) against ``dsn`` and measure every statement.

    A failed statement ends the run: it is told in ``error``, not raised, and an open transaction is rolled back.
    Raises UnreachableServer when ``dsn`` does not answer. Give a started ``lock_trace`` to share one among scripts.
    """
    name = f"comporta/{script.path.stem}"[:63]
    trace = nullcontext(lock_trace) if lock_trace else LockTrace(dsn, applications=())
    with (
        trace as tracing,
        connect(dsn, name="comporta-observer", lock_timeout_ms=2_000) as observer,
        _DiskWatch(dsn) as disk,
        connect(dsn, name=name) as conn,
    ):
        tracing.watch(conn.info.backend_pid)
        runner = _Runner(script, conn, observer, tracing, on_event=on_event, clock=clock)
        before = take_snapshot(observer)
        runner.run()
        after = take_snapshot(observer)
        settled = tracing.settle(runner.now())
        disk.look(observer)
        measured = runner.measurement(role, before, after, disk)
        return measured if settled else replace(measured, trace=replace(measured.trace, complete=False))


class _Runner:
    """Runs one script on one connection and keeps what each statement did."""

    def __init__(
        self,
        script: Script,
        conn: Connection,
        observer: Connection,
        trace: LockTrace,
        *,
        on_event: OnEvent | None,
        clock: Clock,
    ) -> None:
        self._script = script
        self._conn = conn
        self._observer = observer
        self._trace = trace
        self._on_event = on_event
        self._clock = clock
        self._pid = conn.info.backend_pid
        self._ran: list[_Ran] = []
        self._notices: list[str] = []
        self._current = script.statements[0]
        self._first_states: States = {}
        self._roles: set[str] = set()
        self._has_activity = _find_pg_stat_statements(observer)
        self._offset = self._clock_offset()
        # Locks of a transaction that the script itself began, by key, until its COMMIT says how long they lasted.
        self._held: dict[tuple[int, str], ExactLock] = {}
        self._held_by: dict[tuple[int, str], _Ran] = {}
        self._prefix = 0
        self._rewritten: set[tuple[int, int]] = set()

    def now(self) -> float:
        """The server's clock, by ours."""
        return self._clock() + self._offset

    def run(self) -> None:
        """Run until the end or the first failure."""
        self._first_states = _states(self._observer)
        states = self._first_states
        self._roles.add(self._moment().role)
        self._conn.add_notice_handler(self._notice)
        activity = self._activity()
        for statement in self._script.statements:
            self._current = statement
            self._notices = []
            self._tell()
            ran = self._run_one(statement, states)
            ran.notices = self._notices
            self._tell(seconds=ran.ended.at - ran.started.at, error=ran.error.message if ran.error else None)
            self._ran.append(ran)
            self._roles.update((ran.started.role, ran.ended.role))
            latest = self._activity()
            if activity and latest:
                ran.own_wal = max(latest[0] - activity[0], 0)
                ran.temp_bytes = max(latest[1] - activity[1], 0)
            activity = latest
            if statement.kind not in ("SelectStmt", "VariableSetStmt") or ran.exact:
                states = _states(self._observer)
            ran.after = states
            if ran.error:
                break
        self._close_transaction(self.now())

    def _run_one(self, statement: Statement, states: States) -> _Ran:
        in_transaction = self._conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        start = _Moment(self.now(), 0, 0, next(iter(self._roles)))
        how = "script" if in_transaction else "none"
        if not in_transaction and not statement.needs_autocommit and statement.kind not in _MEANINGLESS_ALONE:
            how = "own"
        try:
            if how == "own":
                try:
                    return self._run_wrapped(statement, states)
                except psycopg.errors.ActiveSqlTransaction:
                    self._conn.execute("rollback")
                    how = "none"
            return self._run_inside(statement, states) if how == "script" else self._run_alone(statement, states)
        except psycopg.Error as error:
            ran = _Ran(statement, how, start, replace(start, at=self.now()), states, states)
            ran.error = self._error(statement, error)
            self._leave_transaction()
            return ran

    def _run_wrapped(self, statement: Statement, states: States) -> _Ran:
        """BEGIN, statement, a look at our locks, COMMIT, in one message: the server does them back to back."""
        results = self._send("begin", _moment_query(), statement.sql, _locks_query(), "commit", _moment_query())
        _, first, own, locks, _, last = results
        ran = _Ran(statement, "own", _Moment(*first.rows[0][:4]), _Moment(*last.rows[0][:4]), states, states,
                   rows=own.rows_affected, status=own.status)  # fmt: skip
        self._note_locks(ran, locks, not_before=ran.started.at, released=ran.ended.at)
        return ran

    def _run_inside(self, statement: Statement, states: States) -> _Ran:
        """A statement of the script's own transaction; its locks last until that transaction ends."""
        if statement.transaction_control in ("commit", "rollback"):
            first, locks, own, last = self._send(_moment_query(), _locks_query(), statement.sql, _moment_query())
        else:
            first, own, locks, last = self._send(_moment_query(), statement.sql, _locks_query(), _moment_query())
        ran = _Ran(statement, "script", _Moment(*first.rows[0][:4]), _Moment(*last.rows[0][:4]), states, states,
                   rows=own.rows_affected, status=own.status)  # fmt: skip
        self._note_locks(ran, locks, not_before=ran.started.at, released=None)
        if statement.transaction_control in ("commit", "rollback"):
            self._close_transaction(ran.ended.at)
        return ran

    def _run_alone(self, statement: Statement, states: States) -> _Ran:
        """A statement that must stand alone, or BEGIN: its locks are sampled."""
        started = self._moment()
        [own] = self._send(statement.sql)
        return _Ran(
            statement, "none", started, self._moment(), states, states, rows=own.rows_affected, status=own.status
        )

    def _send(self, *parts: str) -> list[_Result]:
        self._prefix = sum(len(part) + 3 for part in parts[: parts.index(self._current.sql)])
        cursor = execute(self._conn, "\n;\n".join(parts))
        results = [_result(cursor)]
        while cursor.nextset():
            results.append(_result(cursor))
        return results

    def _moment(self) -> _Moment:
        [row] = self._conn.execute(load(_QUERIES, "moment.sql")).fetchall()
        return _Moment(*row[:4])

    def _activity(self) -> tuple[int, int] | None:
        if not self._has_activity:
            return None
        row = self._observer.execute(load(_QUERIES, "own_activity.sql"), {"roles": sorted(self._roles)}).fetchone()
        return (row[0], row[1]) if row else None

    def _note_locks(self, ran: _Ran, locks: _Result, *, not_before: float, released: float | None) -> None:
        for lock in locks.rows[0][2]:
            key = (lock["oid"], lock["mode"])
            old = ran.before.get(lock["oid"])
            if lock["filenode"]:
                ran.filenodes[lock["oid"]] = lock["filenode"]
            if released is None and key in self._held:
                continue
            known = old.qualified if old else (lock["name"] or self._trace.name(lock["oid"]))
            exact = ExactLock(self._pid, lock["vxid"], lock["oid"], known, lock["mode"], not_before, released or 0.0,
                              ran.statement.number, old is None)  # fmt: skip
            if released is None:
                self._held[key], self._held_by[key] = exact, ran
            else:
                ran.exact.append(exact)

    def _close_transaction(self, released: float) -> None:
        for key, exact in self._held.items():
            self._held_by[key].exact.append(replace(exact, released=released))
        self._held, self._held_by = {}, {}

    def _leave_transaction(self) -> None:
        if not self._conn.closed and self._conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                self._conn.execute("rollback")

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        text = diagnostic.message_primary
        if not text:
            return
        if len(self._notices) < _NOTICES_KEPT:
            self._notices.append(text)
        self._tell(notice=text)

    def _tell(self, *, notice: str | None = None, seconds: float | None = None, error: str | None = None) -> None:
        if self._on_event:
            now, total = self._current, len(self._script.statements)
            self._on_event(Progress(now.number, total, now.line, now.headline, notice, seconds, error))

    def _error(self, statement: Statement, error: psycopg.Error) -> StatementError:
        diagnostic = error.diag
        position = int(diagnostic.statement_position or 0) - self._prefix
        inside = statement.sql.count("\n", 0, position - 1) if 0 < position <= len(statement.sql) else 0
        return StatementError(
            sqlstate=error.sqlstate or type(error).__name__,
            message=diagnostic.message_primary or " ".join(str(error).split()),
            detail=diagnostic.message_detail or "",
            hint=diagnostic.message_hint or "",
            context=diagnostic.context or "",
            file=str(self._script.path),
            line=statement.line + inside,
            statement_number=statement.number,
            headline=statement.headline,
            not_run=self._not_run(after=statement.number),
        )

    def _not_run(self, after: int) -> tuple[str, ...]:
        return tuple(f"{s.number} (line {s.line}): {s.headline}" for s in self._script.statements if s.number > after)

    def _clock_offset(self) -> float:
        """Server clock minus ours, by the quickest of five questions."""
        best = (float("inf"), 0.0)
        for _ in range(5):
            asked = self._clock()
            [(told,)] = self._observer.execute("select date_part('epoch', clock_timestamp())").fetchall()
            answered = self._clock()
            best = min(best, (answered - asked, told - (asked + answered) / 2))
        return best[1]

    # -- results -----------------------------------------------------------------------------------------------------

    def measurement(
        self, role: str, before: CatalogueSnapshot, after: CatalogueSnapshot, disk: _DiskWatch
    ) -> ScriptMeasurement:
        """Everything about this run, once the trace has settled."""
        started, ended = self._ran[0].started.at, self._ran[-1].ended.at
        sampled = self._sampled_holds(started)
        waits = self._trace.waits(since=started)
        sizes = _size_by_oid(before), _size_by_oid(after)
        statements = tuple(self._statement(ran, sampled.get(index, ()), sizes) for index, ran in enumerate(self._ran))
        error = self._ran[-1].error
        return ScriptMeasurement(
            path=str(self._script.path),
            stem=self._script.path.stem,
            sha256=self._script.sha256,
            role=role,
            pid=self._pid,
            started_at=started,
            seconds=ended - started,
            statements=statements,
            not_run=error.not_run if error else (),
            waits_caused=tuple(wait for wait in waits if self._pid in wait.behind and wait.pid != self._pid),
            own_waits=tuple(wait for wait in waits if wait.pid == self._pid),
            trace=self._trace.quality(since=started, until=ended),
            wal_bytes=sum(statement.wal_bytes for statement in statements),
            temp_bytes=sum(statement.temp_bytes for statement in statements),
            peak_database_bytes=max(disk.peak_database, after.database_bytes),
            peak_temp_bytes=disk.peak_temp,
            peak_wal_folder_bytes=disk.peak_wal,
            before=before,
            after=after,
            error=error,
        )

    def _sampled_holds(self, since: float) -> dict[int, list[LockHold]]:
        """Sampled locks of the statements whose locks could not be read exactly, by index of the statement."""
        found: dict[int, list[LockHold]] = {}
        for hold in self._trace.holds(ours=None, since=since):
            if hold.pid != self._pid:
                continue
            index = max((i for i, ran in enumerate(self._ran) if ran.started.at <= hold.first_seen), default=0)
            ran = self._ran[index]
            if ran.exact or (ran.transaction != "none" and ran.error is None):
                continue
            found.setdefault(index, []).append(hold)
        return found

    def _statement(self, ran: _Ran, sampled: Sequence[LockHold], sizes: tuple[_Sizes, _Sizes]) -> StatementMeasurement:
        locks = [self._trace.refine(exact) for exact in ran.exact]
        locks = [replace(hold, relation=exact.relation) for hold, exact in zip(locks, ran.exact, strict=True)]
        locks += [
            replace(hold, statement_number=ran.statement.number, new_object=hold.oid not in ran.before,
                    relation=ran.before[hold.oid].qualified if hold.oid in ran.before else hold.relation)
            for hold in sampled
        ]  # fmt: skip
        seconds = ran.ended.at - ran.started.at
        return StatementMeasurement(
            number=ran.statement.number,
            line=ran.statement.line,
            headline=ran.statement.headline,
            kind=ran.statement.kind,
            started_at=ran.started.at,
            seconds=seconds,
            rows=ran.rows,
            status=ran.status,
            transaction=ran.transaction,
            lock_timeout_ms=ran.started.lock_timeout_ms,
            locks=tuple(
                replace(
                    hold,
                    reachable=reachable(hold.oid, ran.before, self._first_states),
                    kind=ran.before[hold.oid].kind if hold.oid in ran.before else "",
                )
                for hold in sorted(locks, key=lambda hold: hold.first_seen)
                # Nobody can wait for what this very statement makes, nor for the TOAST table without its table.
                if not hold.new_object and not hold.relation.startswith("pg_toast.")
            ),
            rewrites=tuple(self._rewrites(ran, seconds, sizes)),
            wal_bytes=ran.own_wal if ran.own_wal is not None else max(ran.ended.lsn - ran.started.lsn, 0),
            wal_source="session" if ran.own_wal is not None else "server",
            temp_bytes=ran.temp_bytes,
            notices=tuple(ran.notices),
            error=ran.error,
        )

    def _rewrites(self, ran: _Ran, seconds: float, sizes: tuple[_Sizes, _Sizes]) -> Iterator[Rewrite]:
        latest = {oid: state.filenode for oid, state in ran.after.items()}
        latest |= ran.filenodes
        for oid, filenode in latest.items():
            old = ran.before.get(oid)
            if old is None or old.filenode == filenode or old.schema == "pg_toast" or ran.error:
                continue
            if (oid, filenode) in self._rewritten:
                continue  # others see it only after COMMIT, but it was told where it happened
            self._rewritten.add((oid, filenode))
            yield Rewrite(
                relation=old.qualified,
                kind=old.kind,
                bytes_before=sizes[0].get(oid),
                bytes_after=sizes[1].get(oid),
                seconds=seconds,
                new_object=oid not in self._first_states,
                reachable=reachable(oid, ran.before, self._first_states),
            )


_Sizes = Mapping[int, int]


def _size_by_oid(snapshot: CatalogueSnapshot) -> dict[int, int]:
    return {relation.oid: relation.bytes for relation in snapshot.relations}


def _moment_query() -> str:
    return load(_QUERIES, "moment.sql")


def _locks_query() -> str:
    return load(_QUERIES, "own_locks.sql")


@dataclass(frozen=True)
class _Result:
    rows: list[tuple[Any, ...]]
    rows_affected: int
    status: str


def _result(cursor: psycopg.Cursor[tuple[Any, ...]]) -> _Result:
    rows = cursor.fetchmany(1_000) if cursor.description else []
    return _Result(rows, cursor.rowcount, cursor.statusmessage or "")


def _find_pg_stat_statements(observer: Connection) -> bool:
    """Put the extension's schema on the observer's search_path; False when this database does not have it."""
    row = observer.execute(
        "select pg_catalog.set_config('search_path', n.nspname, false) from pg_catalog.pg_extension e"
        " join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname = 'pg_stat_statements'"
    ).fetchone()
    if row is None:
        return False
    try:
        observer.execute("select from pg_stat_statements(false) limit 1")
    except psycopg.Error:  # installed, but the server was started without its library
        return False
    return True


class _DiskWatch:
    """Looks at the size of the database twice a second, on a connection and a thread of its own."""

    def __init__(self, dsn: str, *, every_seconds: float = 0.5) -> None:
        self._dsn = dsn
        self._every = every_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="comporta-disk-watch", daemon=True)
        self._may_list_files = True
        self.peak_database = self.peak_temp = self.peak_wal = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=30)

    def look(self, conn: Connection) -> None:
        """Take one reading into the peaks; without pg_monitor only the database counts."""
        [(database,)] = conn.execute(load(_QUERIES, "disk_use.sql")).fetchall()
        self.peak_database = max(self.peak_database, database)
        if self._may_list_files:
            try:
                [(temporary, wal)] = conn.execute(load(_QUERIES, "server_files.sql")).fetchall()
            except psycopg.errors.InsufficientPrivilege:
                self._may_list_files = False
                return
            self.peak_temp = max(self.peak_temp, temporary)
            self.peak_wal = max(self.peak_wal, wal)

    def _run(self) -> None:
        with suppress(psycopg.Error), connect(self._dsn, name="comporta-disk-watch") as conn:
            while not self._stopping.wait(self._every):
                # A file that vanishes between listing and stat is no reason to stop looking.
                with suppress(psycopg.Error):
                    self.look(conn)
