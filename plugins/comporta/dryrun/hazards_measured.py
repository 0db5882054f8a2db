"""Hazards that a run shows: failures, queues, long locks, rewrites, long writes, volumes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from comporta.dryrun.hazard import MB, Hazard, Look, Severity, found, in_ms, in_words, named
from comporta.dryrun.locks import ACCESS_EXCLUSIVE, BLOCKS_WRITES, LockHold, LockWait
from comporta.dryrun.measure import ScriptMeasurement
from comporta.postgres.script import Statement

# A backfill of more rows than this in one transaction holds row locks and keeps dead rows for its whole length.
_ROWS_IN_ONE_TRANSACTION: Final = 10_000


def judge_run(look: Look, run: ScriptMeasurement) -> Iterator[Hazard]:
    """Findings from one measured run."""
    yield from _failed(look, run)
    yield from _queues(look, run)
    yield from _holds(look, run)
    yield from _rewrites(look, run)
    yield from _writes(look, run)
    yield from _volumes(run)


def _statement(look: Look, number: int) -> Statement:
    return look.script.statements[number - 1]


def _failed(look: Look, run: ScriptMeasurement) -> Iterator[Hazard]:
    error = run.error
    if error is None:
        return
    statement = _statement(look, error.statement_number)
    evidence = f"{error.sqlstate}: {error.message} (line {error.line}); {len(error.not_run)} statement(s) did not run"
    yield found(
        "H00",
        "stop",
        error.headline,
        statement,
        evidence,
        "Correct the cause; a resumable script continues where it stopped.",
    )
    code = {"22": "H26", "23": "H26", "25": "H06"}.get(error.sqlstate[:2])
    if error.sqlstate == "53100":
        code = "H24"
    if code:
        yield found(
            code, "stop", error.headline, statement, evidence, error.hint or _CURES.get(code, "See the message.")
        )
    if error.sqlstate == "55P03":
        yield found(
            "H01",
            "stop",
            error.headline,
            statement,
            f"gave up: {evidence}",
            "comporta.with_lock: a short budget for each try, and many tries.",
        )


_CURES: Final = {
    "H26": "Find the rows first (a query for duplicates, nulls, invalid geometry), mend them in batches, then constrain.",
    "H24": "Make room, or do it in parts; the report forecasts the peak.",
    "H06": "Move the statement out of the transaction.",
}


def _queues(look: Look, run: ScriptMeasurement) -> Iterator[Hazard]:
    """Hazards 1 and 23: this script's own waits, and the others' waits behind it."""
    stall = look.budget.longest_stall_ms / 1000
    aside = _aside(run)
    for wait in run.own_waits:
        if wait.oid in aside:
            continue
        statement = _at(look, run, wait)
        if any("autovacuum" in name for name in wait.behind_applications) and wait.seconds > stall:
            yield found(
                "H23",
                "warn",
                wait.relation,
                statement,
                f"waited {in_ms(wait.seconds)} behind autovacuum",
                "Start when the table is not being vacuumed, or let the short budget and retries pass it by.",
            )
        if wait.mode in BLOCKS_WRITES and wait.seconds > stall and wait.oid:
            behind = _behind(run, wait)
            yield found(
                "H01",
                "stop",
                wait.relation,
                statement,
                f"waited {in_ms(wait.seconds)} for {in_words(wait.mode)}{_in_front_of(wait)}; meanwhile {behind}",
                "comporta.with_lock: give up after tens of ms, let traffic pass, try again.",
            )
    worst: dict[tuple[str, int], LockWait] = {}
    for wait in run.waits_caused:
        key = (wait.relation, _number(_at(look, run, wait)))
        if "autovacuum" not in wait.application and (key not in worst or wait.seconds > worst[key].seconds):
            worst[key] = wait
    for wait in worst.values():
        if wait.seconds > stall / 2:
            count = sum(each.relation == wait.relation for each in run.waits_caused)
            severity: Severity = "stop" if wait.seconds > stall else "note"
            code = "H01" if wait.oid else "H09"
            yield found(
                code,
                severity,
                wait.relation,
                _at(look, run, wait),
                f"{count} wait(s) of others behind this script, the longest {in_ms(wait.seconds)} "
                f"({wait.application}, {in_words(wait.mode)})",
                "Shorten the lock: prepare outside it, short budget with retries, batches that commit.",
            )
    yield from _unbounded(look, run)


def _aside(run: ScriptMeasurement) -> set[int]:
    """Relations that only this script could wait for at that time: a leaf that is being filled, and autovacuum on it."""
    locks = [lock for statement in run.statements for lock in statement.locks]
    return {lock.oid for lock in locks if not lock.reachable} - {lock.oid for lock in locks if lock.reachable}


def _unbounded(look: Look, run: ScriptMeasurement) -> Iterator[Hazard]:
    """A lock that blocks others, taken without a lock_timeout: harmless today, an outage behind a long reader."""
    for ran in run.statements:
        holds = [h for h in ran.locks if h.reachable and h.blocks_writes]
        if not holds or ran.lock_timeout_ms > 0 or _bounds_itself(_statement(look, ran.number)):
            continue
        worst = max(holds, key=lambda hold: (hold.mode == ACCESS_EXCLUSIVE, hold.seconds))
        everyone = "everyone" if worst.mode == ACCESS_EXCLUSIVE else "every writer"
        yield found(
            "H01",
            "warn",
            worst.relation,
            _statement(look, ran.number),
            f"{in_words(worst.mode)} without lock_timeout: behind a long transaction it waits for ever, {everyone} behind it",
            "comporta.with_lock, or at least set lock_timeout.",
        )


def _bounds_itself(statement: Statement) -> bool:
    """Whether a statement sets its own limit, or leaves the locking to a routine, which may: its body is not read."""
    text = statement.sql.lower()
    if "lock_timeout" in text or "with_lock" in text or statement.kind in ("CallStmt", "SelectStmt"):
        return True
    return statement.kind == "DoStmt" and not _LOCKS_DIRECTLY.search(text)


_LOCKS_DIRECTLY: Final = re.compile(
    r"\b(alter|drop|lock|truncate|reindex|refresh|cluster|create\s+(unique\s+)?(index|trigger))\s"
)


def _at(look: Look, run: ScriptMeasurement, wait: LockWait) -> Statement | None:
    """The statement that ran when the wait began."""
    started = [ran for ran in run.statements if ran.started_at <= wait.since + 0.001]
    return _statement(look, started[-1].number) if started else None


def _number(statement: Statement | None) -> int:
    return statement.number if statement else 0


def _in_front_of(wait: LockWait) -> str:
    if not wait.behind:
        return ""
    named = [f"pid {pid} ({name})" for pid, name in zip(wait.behind, wait.behind_applications, strict=False)]
    return " behind " + ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")


def _behind(run: ScriptMeasurement, wait: LockWait) -> str:
    queued = [w for w in run.waits_caused if w.oid == wait.oid and w.since < wait.until and w.until > wait.since]
    if not queued:
        return "nobody came, but everyone who had would have queued behind it"
    return f"{len(queued)} session(s) queued behind it, up to {in_ms(max(w.seconds for w in queued))}"


def _holds(look: Look, run: ScriptMeasurement) -> Iterator[Hazard]:
    """Hazard 2: one finding a statement and mode, for the longest hold above budget."""
    for ran in run.statements:
        worst: dict[bool, LockHold] = {}
        for hold in ran.locks:
            exclusive = hold.mode == ACCESS_EXCLUSIVE
            if hold.reachable and hold.blocks_writes and look.by_hold(hold) != "note":
                worst[exclusive] = max(worst.get(exclusive, hold), hold, key=lambda each: each.seconds)
        for hold in worst.values():
            after = [
                s
                for s in run.statements
                if s.number > ran.number and s.started_at < hold.last_seen and s.kind != "TransactionStmt"
            ]
            held_over = f"; {len(after)} further statement(s) ran under it" if after else ""
            how = (
                "read in the transaction"
                if hold.exact
                else f"sampled, {in_ms(hold.seconds_min)} to {in_ms(hold.seconds_max)}"
            )
            yield found(
                "H02",
                look.by_hold(hold),
                hold.relation,
                _statement(look, ran.number),
                f"{in_words(hold.mode)} for {in_ms(hold.seconds)} ({how}){held_over}; budget "
                f"{look.budget.longest_exclusive_lock_ms} ms, stall {look.budget.longest_stall_ms} ms",
                "Do the work before the lock; under it only what must be atomic; commit at once.",
            )


def _rewrites(look: Look, run: ScriptMeasurement) -> Iterator[Hazard]:
    for ran in run.statements:
        if ran.kind == "TruncateStmt":
            continue
        for rewrite in ran.rewrites:
            size = rewrite.bytes_before or 0
            if rewrite.new_object or not rewrite.reachable or rewrite.kind not in "rmi":
                continue
            quick = rewrite.seconds * 1000 <= look.budget.longest_exclusive_lock_ms and size < 10 * MB
            severity: Severity = "note" if rewrite.kind == "i" else "warn" if quick else "stop"
            yield found(
                "H07",
                severity,
                rewrite.relation,
                _statement(look, ran.number),
                f"written again in {in_ms(rewrite.seconds)}: {size / MB:.1f} MB before, "
                f"{(rewrite.bytes_after or 0) / MB:.1f} MB after, {ran.wal_bytes / MB:.1f} MB of WAL",
                "A copy aside, filled in batches and swapped in; or a new column, filled and switched.",
            )


def _writes(look: Look, run: ScriptMeasurement) -> Iterator[Hazard]:
    """Hazard 9 by counting, on what existed before."""
    for ran in run.statements:
        statement = _statement(look, ran.number)
        node: Any = statement.node
        if (
            statement.kind not in ("UpdateStmt", "DeleteStmt", "InsertStmt", "MergeStmt")
            or ran.rows <= _ROWS_IN_ONE_TRANSACTION
        ):
            continue
        if any(r.name == node.relation.relname for r in run.before.relations):
            yield found(
                "H09",
                "warn",
                named(node.relation),
                statement,
                f"{ran.rows} rows in one transaction of {in_ms(ran.seconds)}, {ran.wal_bytes / MB:.1f} MB of WAL",
                "Batches that commit, by key, a few thousand rows each.",
            )


def _volumes(run: ScriptMeasurement) -> Iterator[Hazard]:
    """Hazards 10 and 24: WAL and disk against the size of the database."""
    size = max(run.before.database_bytes, 64 * MB)
    if run.wal_bytes > size / 2:
        rate = run.wal_bytes / max(run.seconds, 0.001) / MB
        yield found(
            "H10",
            "warn" if run.wal_bytes > 4 * size else "note",
            "WAL",
            None,
            f"{run.wal_bytes / MB:.0f} MB of WAL in {run.seconds:.1f} s ({rate:.0f} MB/s), "
            f"{run.wal_bytes / size:.1f} times the database; replicas and slots must keep up",
            "Smaller batches with pauses; watch replica lag and slot retention during the rollout.",
        )
    if run.disk_growth_peak_bytes > size / 2:
        yield found(
            "H24",
            "note",
            "disk",
            None,
            f"peak {run.disk_growth_peak_bytes / MB:.0f} MB above the {run.before.database_bytes / MB:.0f} MB before",
            "Keep at least twice that free on the target.",
        )
