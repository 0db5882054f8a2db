"""The lock trace sees what sessions hold, for how long, and who waits behind whom."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from comporta.dryrun.locks import ACCESS_EXCLUSIVE, ExactLock, LockTrace, conflicts

LAYERS = "catalogue.layers"


def server_time(connection: psycopg.Connection) -> float:
    [(moment,)] = connection.execute("select date_part('epoch', clock_timestamp())").fetchall()
    return float(moment)


def until(question: Callable[[], bool], tries: int = 3_000) -> None:
    pause = threading.Event()
    for _ in range(tries):
        if question():
            return
        pause.wait(0.01)
    raise AssertionError("it never came to that")


@pytest.mark.parametrize("inside", [True, False], ids=["in a transaction", "in a block that commits"])
def test_a_lock_is_seen_with_its_session_its_table_and_its_length(catalogue: str, inside: bool) -> None:
    with (
        LockTrace(catalogue, applications=("worker",)) as trace,
        psycopg.connect(catalogue, autocommit=True, application_name="worker") as worker,
    ):
        pid = worker.info.backend_pid
        work = f"lock table {LAYERS} in access exclusive mode; perform pg_sleep(0.05); commit"
        started = server_time(worker)
        if inside:
            with worker.transaction():
                worker.execute(f"lock table {LAYERS} in access exclusive mode")
                worker.execute("select pg_sleep(0.05)")
        else:
            worker.execute(f"do $$ begin {work}; end $$")
        ended = server_time(worker)
        assert trace.settle(ended)
        [hold] = [hold for hold in trace.holds() if hold.mode == ACCESS_EXCLUSIVE]
    assert hold.relation == LAYERS
    assert hold.pid == pid
    assert hold.application == "worker"
    assert started <= hold.first_seen <= hold.last_seen <= ended
    assert hold.seconds_max >= 0.05
    assert hold.seconds_min <= hold.seconds <= hold.seconds_max


def test_two_short_transactions_are_two_holds(catalogue: str) -> None:
    """A hold ends with its transaction, even when the next one takes the same lock at once."""
    with (
        LockTrace(catalogue, applications=("worker",)) as trace,
        psycopg.connect(catalogue, autocommit=True, application_name="worker") as worker,
    ):
        for _ in range(2):
            worker.execute(f"begin; lock table {LAYERS} in access exclusive mode; select pg_sleep(0.05); commit")
        trace.settle(server_time(worker))
        assert [hold.relation for hold in trace.holds() if hold.mode == ACCESS_EXCLUSIVE] == [LAYERS, LAYERS]


def test_an_index_built_concurrently_is_one_hold_across_its_transactions(catalogue: str) -> None:
    """And the trace does not delay it: every look ends its own transaction."""
    with (
        LockTrace(catalogue, applications=("worker",)) as trace,
        psycopg.connect(catalogue, autocommit=True, application_name="worker") as worker,
    ):
        worker.execute("create index concurrently layers_title_idx on catalogue.layers (title)")
        worker.execute("create index concurrently names_idx on catalogue.geometrias (name, id, layer)")
        trace.settle(server_time(worker))
        holds = [hold for hold in trace.holds() if hold.mode == "ShareUpdateExclusiveLock"]
    assert [hold.relation for hold in holds if hold.relation == "catalogue.geometrias"] == ["catalogue.geometrias"]


def test_a_table_keeps_the_first_name_that_it_was_seen_under(catalogue: str) -> None:
    with (
        psycopg.connect(catalogue, autocommit=True, application_name="worker") as worker,
        LockTrace(catalogue, applications=("worker",)) as trace,
    ):
        worker.execute("create table catalogue.passing (a int)")
        worker.execute("begin; lock table catalogue.passing in access exclusive mode; select pg_sleep(0.05); commit")
        worker.execute(
            "begin; alter table catalogue.passing rename to renamed; select pg_sleep(0.05); drop table catalogue.renamed; commit"
        )
        trace.settle(server_time(worker))
        names = {hold.relation for hold in trace.holds() if hold.mode == ACCESS_EXCLUSIVE and hold.seconds > 0.04}
    assert names == {"catalogue.passing"}


def test_an_object_that_nobody_else_can_see_yet_is_marked_new(catalogue: str) -> None:
    with (
        psycopg.connect(catalogue, autocommit=True, application_name="worker") as worker,
        LockTrace(catalogue, applications=("worker",)) as trace,
    ):
        worker.execute(
            f"begin; create table catalogue.fresh (a int); lock table {LAYERS}; select pg_sleep(0.05); commit"
        )
        trace.settle(server_time(worker))
        news = {hold.new_object for hold in trace.holds() if hold.mode == ACCESS_EXCLUSIVE and hold.relation != LAYERS}
        olds = {hold.new_object for hold in trace.holds() if hold.mode == ACCESS_EXCLUSIVE and hold.relation == LAYERS}
    assert news == {True}
    assert olds == {False}


def test_a_wait_is_told_with_those_in_front(catalogue: str) -> None:
    """A reader waits for the writer's lock; the trace names both, and how long it took, also when it was brief."""
    with (
        LockTrace(catalogue, applications=("holder",)) as trace,
        psycopg.connect(catalogue, application_name="holder") as holder,
        psycopg.connect(catalogue, autocommit=True) as watcher,
    ):
        pid = holder.info.backend_pid
        holder.execute(f"lock table {LAYERS} in access exclusive mode")
        reader = threading.Thread(target=read_layers, args=(catalogue,))
        reader.start()
        until(lambda: queued(watcher) > 0)
        holder.commit()
        reader.join()
        trace.settle(server_time(watcher))
        [wait] = [wait for wait in trace.waits() if wait.application == "reader"]
    assert wait.relation == LAYERS
    assert wait.mode == "AccessShareLock"
    assert wait.behind == (pid,)
    assert wait.behind_applications == ("holder",)
    assert wait.seconds > 0


def test_a_wait_for_a_row_is_told_too(catalogue: str) -> None:
    with (
        LockTrace(catalogue, applications=("holder",)) as trace,
        psycopg.connect(catalogue, application_name="holder") as holder,
        psycopg.connect(catalogue, autocommit=True) as watcher,
    ):
        pid = holder.info.backend_pid
        holder.execute(f"update {LAYERS} set title = title")
        writer = threading.Thread(target=touch_layers, args=(catalogue,))
        writer.start()
        until(lambda: rows_waited_for(watcher) > 0)
        until(lambda: any(wait.application == "writer" for wait in trace.waits()))
        holder.commit()
        writer.join()
        [wait] = [wait for wait in trace.waits() if wait.application == "writer"]
    assert wait.relation == "a row"
    assert wait.behind == (pid,)


def test_the_trace_says_how_dense_its_looks_were(catalogue: str) -> None:
    with LockTrace(catalogue) as trace, psycopg.connect(catalogue, autocommit=True) as watcher:
        watcher.execute("select pg_sleep(0.3)")
        trace.settle(server_time(watcher))
        quality = trace.quality()
    assert quality.complete
    assert quality.samples > 10
    assert 0 < quality.interval_ms_p50 <= quality.interval_ms_p99 <= quality.interval_ms_max


def test_a_trace_whose_session_ended_says_so(catalogue: str) -> None:
    with LockTrace(catalogue) as trace, psycopg.connect(catalogue, autocommit=True) as watcher:
        watcher.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'comporta-lock-trace'"
        )
        until(lambda: not trace.quality().complete)
        assert not trace.settle(server_time(watcher) + 1_000)
        assert trace.quality().problem


def test_a_lock_read_in_its_transaction_is_narrowed_by_the_looks(catalogue: str) -> None:
    """Known to lie between the statement's start and COMMIT; the looks before it tell when it was not yet there."""
    with (
        LockTrace(catalogue, applications=("worker",)) as trace,
        psycopg.connect(catalogue, application_name="worker") as worker,
    ):
        worker.execute("select pg_sleep(0.1)")
        not_before = server_time(worker) - 0.1
        [(vxid,)] = worker.execute(
            "select virtualtransaction from pg_locks where pid = pg_backend_pid() limit 1"
        ).fetchall()
        worker.execute(f"lock table {LAYERS} in access exclusive mode")
        worker.execute("select pg_sleep(0.05)")
        [(oid,)] = worker.execute("select 'catalogue.layers'::regclass::oid").fetchall()
        worker.commit()
        released = server_time(worker)
        trace.settle(released)
        pid = worker.info.backend_pid
        hold = trace.refine(ExactLock(pid, vxid, oid, LAYERS, ACCESS_EXCLUSIVE, not_before, released, 1, False))
    assert hold.exact
    assert hold.last_seen == released
    assert not_before < hold.first_seen
    assert 0.05 <= hold.seconds < released - not_before


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("AccessShareLock", "AccessExclusiveLock", True),
        ("AccessShareLock", "ExclusiveLock", False),
        ("RowExclusiveLock", "ShareLock", True),
        ("RowExclusiveLock", "ShareUpdateExclusiveLock", False),
        ("ShareLock", "ShareLock", False),
        ("ShareUpdateExclusiveLock", "ShareUpdateExclusiveLock", True),
    ],
)
def test_modes_conflict_as_the_manual_says(one: str, other: str, expected: bool) -> None:
    assert conflicts(one, other) is expected
    assert conflicts(other, one) is expected


def queued(watcher: psycopg.Connection) -> int:
    [(count,)] = watcher.execute("select count(*) from pg_locks where locktype = 'relation' and not granted").fetchall()
    return int(count)


def rows_waited_for(watcher: psycopg.Connection) -> int:
    [(count,)] = watcher.execute(
        "select count(*) from pg_locks where locktype = 'transactionid' and not granted"
    ).fetchall()
    return int(count)


def read_layers(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, application_name="reader") as connection:
        connection.execute(f"select count(*) from {LAYERS}")


def touch_layers(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, application_name="writer") as connection:
        connection.execute(f"update {LAYERS} set title = title")
