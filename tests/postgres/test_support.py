"""What the change scripts share: one runner at a time, locks that never queue for long, and a replay by state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from comporta.postgres.connection import Connection, connect

SUPPORT = sorted((Path(__file__).resolve().parents[2] / "sql/support").glob("*.sql"))


@pytest.fixture
def conn(catalogue: str) -> Iterator[Connection]:
    """An autocommit superuser connection to a fresh catalogue."""
    with connect(catalogue, name="test") as connection:
        yield connection


def wait_until(conn: Connection, query: str) -> None:
    """Ask until a row comes back, at most 3,000 times."""
    for _ in range(3_000):
        if conn.execute(query.encode()).fetchone() is not None:
            return
        conn.execute("select pg_sleep(0.01)")
    raise AssertionError(f"never came true: {query}")


def test_installing_the_support_schema_again_keeps_what_is_noted(conn: Connection) -> None:
    """Steps, log and storage stay."""
    conn.execute("select comporta.mark('OPT9', 'half', '{\"n\": 1}')")
    for path in SUPPORT:
        conn.execute(path.read_bytes())
    assert conn.execute("select comporta.done('OPT9', 'half'), comporta.detail('OPT9', 'half')").fetchone() == (
        True,
        {"n": 1},
    )
    conn.execute("select comporta.forget('OPT9')")
    assert conn.execute("select comporta.done('OPT9', 'half')").fetchone() == (False,)


def test_two_runners_never_overlap_and_a_dead_one_gives_way(catalogue: str) -> None:
    """The second is refused with the name of the first; when that session ends, it may start."""
    with connect(catalogue, name="second") as second:
        with connect(catalogue, name="the first one") as first:
            first.execute("select comporta.claim('OPT1')")
            with pytest.raises(psycopg.errors.LockNotAvailable, match=r"OPT2 cannot start.*the first one"):
                second.execute("select comporta.claim('OPT2')")
        wait_until(
            second, "select where not exists (select from pg_stat_activity where application_name = 'the first one')"
        )
        second.execute("select comporta.claim('OPT2')")
        assert second.execute("select comporta.release('OPT2')") is not None
        assert second.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)


def test_a_claim_sets_the_isolation_that_a_replay_under_a_lock_needs(conn: Connection) -> None:
    """A snapshot from before the lock would miss what was committed while waiting for it."""
    conn.execute("set default_transaction_isolation = 'serializable'")
    conn.execute("select comporta.claim('OPT1')")
    assert conn.execute("show transaction_isolation").fetchone() == ("read committed",)


def test_with_lock_gives_up_naming_who_is_in_the_way_and_leaves_nothing(catalogue: str) -> None:
    """Neither locks nor half of the body stay, and other readers pass between the tries."""
    with connect(catalogue, name="long reader") as reader, connect(catalogue, name="change") as change:
        reader.execute("begin")
        reader.execute("select from catalogue.geometrias limit 1")
        with pytest.raises(psycopg.errors.LockNotAvailable, match=r"3 tries of 20 ms each; in the way: .*long reader"):
            change.execute(
                "call comporta.with_lock(array['catalogue.layers', 'catalogue.geometrias'],"
                " 'comment on table catalogue.layers is ''half''', 'access exclusive', 20, 3)"
            )
        held = "select count(*) from pg_locks where pid = %s and relation::regclass::text like 'catalogue.%%'"
        assert change.execute(held, [change.info.backend_pid]).fetchone() == (0,)
        assert change.execute("select obj_description('catalogue.layers'::regclass)").fetchone() != ("half",)
        assert change.execute("show lock_timeout").fetchone() == ("0",)


def test_with_lock_lets_readers_through_while_a_long_one_is_in_the_way_and_then_succeeds(catalogue: str) -> None:
    """A request that waits is withdrawn again and again; each short reader is answered before the long one ends."""
    with (
        connect(catalogue, name="long reader") as long,
        connect(catalogue, name="reader") as short,
        ThreadPoolExecutor(1) as pool,
    ):
        long.execute("begin")
        long.execute("select from catalogue.geometrias limit 1")

        def change() -> None:
            with connect(catalogue, name="change") as conn:
                conn.execute(
                    "call comporta.with_lock(array['catalogue.geometrias'], 'comment on table catalogue.geometrias is ''done''')"
                )

        running = pool.submit(change)
        wait_until(short, "select from pg_locks where relation = 'catalogue.geometrias'::regclass and not granted")
        short.execute("set statement_timeout = '5s'")
        for _ in range(10):
            short.execute("select from catalogue.geometrias limit 1")
        assert not running.done()
        long.execute("rollback")
        running.result()
        assert short.execute("select obj_description('catalogue.geometrias'::regclass)").fetchone() == ("done",)


def test_an_error_in_the_body_is_not_tried_again(conn: Connection) -> None:
    """Only a lock that was not there in time is."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        conn.execute("call comporta.with_lock(array['catalogue.layers'], 'select 1 / 0')")
    assert conn.execute("select count(*) from pg_locks where relation = 'catalogue.layers'::regclass").fetchone() == (
        0,
    )


def test_the_replay_makes_a_copy_equal_whatever_was_written(conn: Connection) -> None:
    """Inserts, updates, deletions and changes of id in any order, replayed in batches of any size, once or twice."""
    dice = random.Random(1)  # noqa: S311 - a seed makes a failure repeatable
    conn.execute("create schema copy")
    conn.execute(
        'create table copy.a (id bigint generated always as identity primary key, "a b" text,'
        ' twice text generated always as ("a b" || "a b") stored)'
    )
    conn.execute("create table copy.b (like copy.a including all)")
    conn.execute(
        "create trigger log after insert or update or delete on copy.a for each row execute function comporta.log_row('test')"
    )
    for _ in range(20):
        for _ in range(40):
            one, other = dice.randrange(60), dice.randrange(60)
            conn.execute(
                dice.choice(
                    [
                        f"insert into copy.a (id, \"a b\") overriding system value values ({one}, 'x') on conflict do nothing",
                        f"update copy.a set \"a b\" = '{dice.random()}' where id = {one}",
                        f"delete from copy.a where id = {one}",
                        f'delete from copy.a where id = {one}; insert into copy.a ("a b", id) overriding system value'
                        f" select 'y', {one} where not exists (select from copy.a where id = {one})",
                    ]
                ).encode()
            )
            conn.execute(
                f"update copy.a set id = default where id = {one} and {other} < 10"
                f" and not exists (select from copy.a where id = (select last_value + 1 from copy.a_id_seq))".encode()
            )
        if dice.random() < 0.3:
            conn.execute("insert into comporta.row_log (log, id) select 'test', id from comporta.row_log")
        while conn.execute(
            "select comporta.replay_batch('test', 'copy.a', 'copy.b', %s)", [dice.randint(1, 50)]
        ).fetchone() != (0,):
            pass
        rows = "select array_agg(t::text order by id) from {} t"
        assert (
            conn.execute(rows.format("copy.a").encode()).fetchone()
            == conn.execute(rows.format("copy.b").encode()).fetchone()
        )


def test_a_row_that_does_not_fit_is_named_and_stays_in_the_log(conn: Connection) -> None:
    """The replay stops at it with its id; correct the row and go on."""
    conn.execute("create schema copy")
    for name, check in (("a", "true"), ("b", "n > 0")):
        conn.execute(f"create table copy.{name} (id bigint primary key, n integer check ({check}))".encode())
    conn.execute(
        "create trigger log after insert or update on copy.a for each row execute function comporta.log_row('test')"
    )
    conn.execute("insert into copy.a values (1, 1), (77, -1), (3, 3)")
    with pytest.raises(psycopg.errors.RaiseException, match=r"the row with id 77 of copy.a does not fit into copy.b"):
        conn.execute("call comporta.replay('test', 'copy.a', 'copy.b')")
    assert conn.execute("select count(*) from comporta.row_log").fetchone() == (3,)
    conn.execute("update copy.a set n = 7 where id = 77")
    conn.execute("call comporta.replay('test', 'copy.a', 'copy.b')")
    assert conn.execute("select * from copy.b order by id").fetchall() == [(1, 1), (3, 3), (77, 7)]


def test_carried_grants_are_those_of_the_source_and_equal_ones_are_not_touched(conn: Connection) -> None:
    """A second time changes no catalogue row; grantors apart, nothing is added or kept."""
    conn.execute("create table catalogue.twin (like catalogue.geometrias)")
    conn.execute("grant all on catalogue.twin to app_reader with grant option")
    conn.execute("set role app_reader")
    conn.execute("grant select on catalogue.twin to app_editor")
    conn.execute("reset role")
    conn.execute("grant select (id) on catalogue.twin to public")
    state = "select relacl::text, xmin::text from pg_class where oid = 'catalogue.twin'::regclass"
    conn.execute("select comporta.carry_grants('catalogue.geometrias', 'catalogue.twin')")
    assert conn.execute(
        "select comporta.grants('catalogue.geometrias') = comporta.grants('catalogue.twin')"
    ).fetchone() == (True,)
    first = conn.execute(state).fetchone()
    conn.execute("select comporta.carry_grants('catalogue.geometrias', 'catalogue.twin')")
    assert conn.execute(state).fetchone() == first


def test_a_definer_s_routines_look_into_pg_temp_last(conn: Connection) -> None:
    """Else a caller's temporary type or table would be found before the catalogue's."""
    found = conn.execute(
        "select oid::regprocedure::text from pg_proc where pronamespace = 'comporta'::regnamespace and prosecdef"
        " and proname in ('log_row', 'geometrias_ids_move', 'geometrias_ids_keep')"
        " and not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)"
    ).fetchall()
    assert found == []


def test_stored_in_follows_what_a_change_recorded(conn: Connection) -> None:
    """Without a record the name itself."""
    ask = "select comporta.stored_in('catalogue.geometrias')::text"
    assert conn.execute(ask).fetchone() == ("catalogue.geometrias",)
    conn.execute("insert into comporta.storage values ('catalogue.geometrias', 'catalogue.layers', 'OPT9')")
    assert conn.execute(ask).fetchone() == ("catalogue.layers",)
