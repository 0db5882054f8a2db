"""OPT4 makes partitions ahead of need and moves what the default partition caught, unseen by readers and triggers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comporta.errors import StatementFailed
from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.proof import fingerprint

SQL = Path(__file__).resolve().parents[2] / "sql"
OPT1 = SQL / "apply/OPT1_temporal_partitioning_geometrias.sql"
APPLY = SQL / "apply/OPT4_auto_partition_creation_2029_plus.sql"
VERIFY = SQL / "verify/OPT4_auto_partition_creation_2029_plus.sql"
ROLLBACK = SQL / "rollback/ROLLBACK_OPT4_auto_partition_creation_2029_plus.sql"
ENSURE = "call catalogue.ensure_geometrias_partitions()"
JOB = "comporta_opt4_ensure_partitions"

INSERT = """
    insert into catalogue.geometrias (layer, name, geom, data_referencia)
    select l.code, 'Future ' || %(day)s::text, 'SRID=4326;MULTIPOLYGON(((0 0,0 1,1 1,0 0)))'::public.geometry, %(day)s::date
    from (select code from catalogue.layers order by code limit 1) l
    returning id"""
CONTENT = """
    select (select sum(hashtextextended(g::text, 0)::numeric) from catalogue.geometrias g),
           (select sum(hashtextextended(i::text, 0)::numeric) from catalogue.geometrias_ids i),
           (select sum(hashtextextended(a::text, 0)::numeric) from catalogue.annotations a),
           (select sum(hashtextextended(e::text, 0)::numeric) from catalogue.edits e),
           (select count(*) from comporta.row_log where log = 'OPT1/after')"""
CALLING = "query ilike 'call %' and pid <> pg_backend_pid() and application_name like '%test%'"
REGISTRY_MISTAKES = """
    select count(*) from catalogue.geometrias g full join catalogue.geometrias_ids i using (id, data_referencia)
    where g.name is null or i.id is null"""


def run(dsn: str, path: Path, upto: int | None = None) -> None:
    """Run a script, or its first ``upto`` statements as if it were killed there, on a connection of its own."""
    script = Script.read(path)
    with connect(dsn, name="test") as conn:
        run_script(conn, Script(script.path, script.sha256, script.statements[:upto]))


def rows(dsn: str, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []


def value(dsn: str, query: Any, parameters: Any = None) -> Any:
    return rows(dsn, query, parameters)[0][0]


def content(dsn: str) -> tuple[Any, ...]:
    """Digests of everything that moving rows between partitions must leave alone."""
    return rows(dsn, CONTENT)[0]


def taken(dsn: str) -> fingerprint.Fingerprint:
    with psycopg.connect(dsn) as conn:
        return fingerprint.take(conn)


def differences(before: fingerprint.Fingerprint, after: fingerprint.Fingerprint) -> list[str]:
    return [str(each) for each in fingerprint.diff(before, after)]


def partitions(dsn: str) -> set[str]:
    found = rows(
        dsn,
        """
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'catalogue.geometrias'::regclass""",
    )
    return {name for (name,) in found}


def places(dsn: str) -> dict[str, int]:
    """How many rows of 2029 and later each partition holds."""
    return dict(
        rows(
            dsn,
            """
            select tableoid::regclass::text, count(*) from catalogue.geometrias
            where data_referencia >= '2029-01-01' group by 1""",
        )
    )


def add_future_rows(dsn: str, *days: str, copies: int = 1) -> list[int]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        ids = []
        for day in days:
            for _ in range(copies):
                row = conn.execute(INSERT, {"day": day}).fetchone()
                assert row is not None
                ids.append(row[0])
        conn.execute(
            "insert into catalogue.annotations (geometria_id, author, body) select unnest(%s::bigint[]), 'a', 'b'",
            [ids],
        )
    return ids


@pytest.fixture
def partitioned(catalogue: str) -> str:
    """The fresh catalogue after OPT1."""
    run(catalogue, OPT1)
    return catalogue


def test_partitions_two_years_ahead_are_made_like_the_newest_leaf(partitioned: str) -> None:
    """Columns, checks, keys, indexes, options, targets, owner and triggers are those of 2028; nobody is granted it."""
    run(partitioned, APPLY)
    run(partitioned, VERIFY)

    assert {"geometrias_2029", "geometrias_2030", "geometrias_2031", "geometrias_default"} <= partitions(partitioned)
    facts = taken(partitioned).facts

    def shape(year: int) -> dict[tuple[str, str, str], str]:
        mine = {}
        for (kind, name), properties in facts.items():
            if f"geometrias_{year}" in name:
                for key, fact in properties.items():
                    mine[kind, name.replace(str(year), "Y"), key] = fact.replace(str(year + 1), "Z").replace(
                        str(year), "Y"
                    )
        return mine

    assert shape(2029) == shape(2028)
    assert shape(2029)
    assert not value(partitioned, "select has_table_privilege('gis_reader', 'catalogue.geometrias_2029', 'select')")


def test_rows_waiting_in_the_default_partition_move_and_nothing_else_changes(partitioned: str) -> None:
    """The registry, annotations, edits and the log of OPT1 do not see the move."""
    add_future_rows(partitioned, "2029-02-03", "2030-01-01", "2031-12-31", "2033-05-05", copies=7)
    before = content(partitioned)

    run(partitioned, APPLY)

    assert content(partitioned) == before
    run(partitioned, VERIFY)
    assert places(partitioned) == {f"catalogue.geometrias_{year}": 7 for year in (2029, 2030, 2031, 2033)}
    assert "geometrias_2035" in partitions(partitioned)
    assert value(partitioned, REGISTRY_MISTAKES) == 0


def test_the_move_is_copied_in_bounded_batches(partitioned: str) -> None:
    """More rows than one batch arrive, each once."""
    rows(
        partitioned,
        """
        insert into catalogue.geometrias (layer, name, geom, data_referencia)
        select (select min(code) from catalogue.layers), 'Future ' || i,
               'SRID=4326;MULTIPOLYGON(((0 0,0 1,1 1,0 0)))'::public.geometry, date '2029-01-01' + i %% 30
        from generate_series(1, %s) i""",
        [1_700],
    )
    before = content(partitioned)

    run(partitioned, APPLY)

    assert content(partitioned) == before
    assert places(partitioned) == {"catalogue.geometrias_2029": 1_700}


def test_a_later_run_follows_the_newest_row(partitioned: str) -> None:
    run(partitioned, APPLY)
    add_future_rows(partitioned, "2034-07-01")
    before = content(partitioned)

    rows(partitioned, ENSURE)

    assert content(partitioned) == before
    assert places(partitioned) == {"catalogue.geometrias_2034": 1}
    assert {"geometrias_2032", "geometrias_2036"} <= partitions(partitioned)
    run(partitioned, VERIFY)


def test_a_run_with_nothing_to_do_changes_nothing(partitioned: str) -> None:
    run(partitioned, APPLY)
    before = taken(partitioned)
    rows(partitioned, ENSURE)
    run(partitioned, APPLY)
    assert differences(before, taken(partitioned)) == []


def test_rows_out_of_all_proportion_stay_in_the_default_partition(partitioned: str) -> None:
    """A date that stands for "never" makes no thousand partitions, and is not refused."""
    rows(partitioned, "alter table catalogue.geometrias disable trigger user")
    rows(partitioned, INSERT, {"day": "infinity"})
    rows(partitioned, INSERT, {"day": "9999-12-31"})
    run(partitioned, APPLY)
    run(partitioned, VERIFY)
    assert "geometrias_2032" not in partitions(partitioned)
    assert places(partitioned) == {"catalogue.geometrias_default": 2}


def test_rollback_gives_back_the_catalogue_and_keeps_rows_written_since(partitioned: str) -> None:
    add_future_rows(partitioned, "2029-02-03", "2040-01-01")
    before = taken(partitioned)
    run(partitioned, APPLY)
    add_future_rows(partitioned, "2029-06-06", "2031-03-03", "2039-01-01", copies=3)
    written = content(partitioned)

    run(partitioned, ROLLBACK)

    assert content(partitioned) == written
    assert places(partitioned) == {"catalogue.geometrias_default": 11}
    changes = fingerprint.diff(before, taken(partitioned), ignore=[fingerprint.SEQUENCE_PROGRESS])
    assert [str(each) for each in changes] == []
    assert rows(partitioned, "select * from comporta.step where change = 'OPT4'") == []
    assert rows(partitioned, "select * from comporta.row_log where log = 'OPT4'") == []
    assert value(partitioned, REGISTRY_MISTAKES) == 0

    run(partitioned, ROLLBACK)
    run(partitioned, APPLY)
    run(partitioned, VERIFY)
    assert content(partitioned) == written


def test_only_partitions_that_opt4_made_are_removed(partitioned: str) -> None:
    rows(
        partitioned,
        "create table catalogue.geometrias_2030 partition of catalogue.geometrias for values from ('2030-01-01') to ('2031-01-01')",
    )
    run(partitioned, APPLY)
    run(partitioned, ROLLBACK)
    assert partitions(partitioned) & {"geometrias_2029", "geometrias_2030", "geometrias_2031"} == {"geometrias_2030"}


def test_killed_after_any_statement_it_converges(partitioned: str) -> None:
    """Each script is cut after each of its statements and run again."""
    add_future_rows(partitioned, "2029-02-03", "2030-05-05", copies=2)
    before, written = taken(partitioned), content(partitioned)
    for cut in range(2, len(Script.read(APPLY).statements)):
        run(partitioned, APPLY, upto=cut)
        run(partitioned, APPLY)
        run(partitioned, VERIFY)
        run(partitioned, ROLLBACK, upto=1 + cut % len(Script.read(ROLLBACK).statements))
        run(partitioned, ROLLBACK)
        assert differences(before, taken(partitioned)) == []
        assert content(partitioned) == written


@pytest.mark.parametrize("path", [APPLY, ROLLBACK], ids=["apply", "rollback"])
@pytest.mark.parametrize(
    ("hindrance", "state"),
    [
        ("select 1", "select true from pg_trigger where tgname = 'comporta_opt4_log'"),
        (
            "select count(*) from catalogue.geometrias",
            "select true where to_regclass('catalogue.geometrias_2029') is not null",
        ),
    ],
    ids=["while it waits for an old snapshot", "while it waits for a lock"],
)
def test_killed_in_the_middle_of_a_move_it_converges(partitioned: str, path: Path, hindrance: str, state: str) -> None:
    """The backend is terminated before it can swap; no trigger, copy or row is left astray."""
    add_future_rows(partitioned, "2029-02-03", "2030-05-05", copies=2)
    before = taken(partitioned)
    if path is ROLLBACK:
        run(partitioned, APPLY)
    failures: list[BaseException] = []
    with psycopg.connect(partitioned) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute(hindrance)
        worker = threading.Thread(target=attempt, args=(lambda: run(partitioned, path), failures))
        worker.start()
        wait_for(partitioned, state)
        wait_for(partitioned, f"select true from pg_stat_activity where {CALLING} and wait_event = 'PgSleep'")
        rows(partitioned, f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where {CALLING}")
        worker.join(60)
    assert len(failures) == 1
    add_future_rows(partitioned, "2029-03-03")
    written = content(partitioned)

    run(partitioned, path)

    assert content(partitioned) == written
    if path is APPLY:
        run(partitioned, VERIFY)
        run(partitioned, ROLLBACK)
    changes = fingerprint.diff(before, taken(partitioned), ignore=[fingerprint.SEQUENCE_PROGRESS])
    assert [str(each) for each in changes] == []
    assert content(partitioned) == written


def test_no_write_fails_or_is_lost_while_rows_move(partitioned: str) -> None:
    """Writers insert, change and delete rows of all years, also from year to year, during apply and rollback."""
    ids = add_future_rows(partitioned, "2029-02-03", "2030-05-05", "2031-07-07", "2034-01-01", copies=30)
    with writing(partitioned, ids) as (expected, failures):
        run(partitioned, APPLY)
        rows(partitioned, ENSURE)
        run(partitioned, VERIFY)
        run(partitioned, ROLLBACK)
        run(partitioned, APPLY)
    assert failures == []
    found = dict(
        rows(
            partitioned,
            "select id, data_referencia::text from catalogue.geometrias where data_referencia >= '2029-01-01'",
        )
    )
    assert found == expected
    assert len(expected) > len(ids)
    assert value(partitioned, REGISTRY_MISTAKES) == 0
    rows(partitioned, ENSURE)
    run(partitioned, VERIFY)


def test_a_reader_never_misses_a_waiting_row(partitioned: str) -> None:
    """Every read during apply and rollback finds each row exactly once."""
    ids = add_future_rows(partitioned, "2029-02-03", "2030-05-05", copies=40)
    stop = threading.Event()
    seen: set[tuple[int, int]] = set()
    failures: list[BaseException] = []

    def read() -> None:
        with psycopg.connect(partitioned, autocommit=True) as conn:
            while not stop.is_set():
                row = conn.execute(
                    "select count(*), count(distinct id) from catalogue.geometrias where data_referencia >= '2029-01-01'"
                ).fetchone()
                assert row is not None
                seen.add((row[0], row[1]))

    reader = threading.Thread(target=attempt, args=(read, failures))
    reader.start()
    run(partitioned, APPLY)
    run(partitioned, ROLLBACK)
    stop.set()
    reader.join(60)
    assert failures == []
    assert seen == {(len(ids), len(ids))}


def test_the_daily_job_is_scheduled_and_a_former_one_comes_back(partitioned: str) -> None:
    rows(partitioned, "select cron.schedule(%s, '1 1 * * 0', 'select 1')", [JOB])
    rows(partitioned, "select cron.alter_job(jobid, active := false) from cron.job where jobname = %s", [JOB])
    before = taken(partitioned)
    run(partitioned, APPLY)
    run(partitioned, VERIFY)
    assert rows(partitioned, "select command, active from cron.job where jobname = %s", [JOB]) == [(ENSURE, True)]
    run(partitioned, ROLLBACK)
    assert rows(partitioned, "select command, active from cron.job where jobname = %s", [JOB]) == [("select 1", False)]
    assert differences(before, taken(partitioned)) == []


def test_a_run_steps_aside_for_a_change_script(partitioned: str) -> None:
    run(partitioned, APPLY)
    add_future_rows(partitioned, "2036-01-01")
    with psycopg.connect(partitioned, autocommit=True) as other:
        other.execute("select comporta.claim('OPT2')")
        rows(partitioned, ENSURE)
        assert places(partitioned) == {"catalogue.geometrias_default": 1}
    rows(partitioned, ENSURE)
    assert places(partitioned) == {"catalogue.geometrias_2036": 1}


def test_without_opt1_apply_is_refused_and_rollback_does_nothing(catalogue: str) -> None:
    before = taken(catalogue)
    with pytest.raises(StatementFailed, match="OPT4 requires OPT1"):
        run(catalogue, APPLY)
    run(catalogue, ROLLBACK)
    assert differences(before, taken(catalogue)) == []
    assert rows(catalogue, "select * from comporta.step where change = 'OPT4'") == []


def test_a_table_of_somebody_else_under_the_name_is_refused(partitioned: str) -> None:
    rows(partitioned, "create table catalogue.geometrias_2030 (kept integer)")
    with pytest.raises(StatementFailed, match="geometrias_2030 to be free"):
        run(partitioned, APPLY)
    run(partitioned, ROLLBACK)
    assert value(partitioned, "select to_regclass('catalogue.geometrias_2030') is not null")


def test_a_horizon_that_makes_no_sense_is_refused(partitioned: str) -> None:
    run(partitioned, APPLY)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="between 0 and 100, found -1"):
        rows(partitioned, "call catalogue.ensure_geometrias_partitions(-1)")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("drop procedure catalogue.ensure_geometrias_partitions(integer)", "OPT4 is not in place"),
        (
            "alter table catalogue.geometrias detach partition catalogue.geometrias_2030",
            "partition for the year 2030, found none",
        ),
        ("select cron.unschedule('comporta_opt4_ensure_partitions')", "found none"),
        ("select cron.alter_job(jobid, active := false) from cron.job", "active = f"),
    ],
    ids=["no procedure", "no partition", "no job", "job asleep"],
)
def test_verify_names_what_is_missing(partitioned: str, harm: str, message: str) -> None:
    run(partitioned, APPLY)
    rows(partitioned, harm)
    with pytest.raises(StatementFailed, match=message):
        run(partitioned, VERIFY)


def test_verify_leaves_no_trace(partitioned: str) -> None:
    run(partitioned, APPLY)
    before, written = taken(partitioned), content(partitioned)
    run(partitioned, VERIFY)
    assert differences(before, taken(partitioned)) == []
    assert content(partitioned) == written


def attempt(work: Callable[[], None], failures: list[BaseException]) -> None:
    try:
        work()
    except BaseException as error:
        failures.append(error)


def wait_for(dsn: str, query: Any, tries: int = 3_000) -> None:
    """Poll until the query gives a row; the bound is for a broken test, not a speed."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for _ in range(tries):
            if conn.execute(query).fetchone() is not None:
                return
            conn.execute("select pg_sleep(0.01)")
    raise AssertionError(f"never true: {query}")


@contextmanager
def writing(dsn: str, ids: list[int]) -> Iterator[tuple[dict[int, str], list[BaseException]]]:
    """Write until the block ends; yields what rows of 2029 and later must be there by then (id -> date), and failures."""
    expected: dict[int, str] = dict(
        rows(dsn, "select id, data_referencia::text from catalogue.geometrias where data_referencia >= '2029-01-01'")
    )
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            turn = 0
            while not stop.is_set():
                turn += 1
                day = f"{2029 + turn % 8}-{1 + turn % 12:02}-11"
                row = conn.execute(INSERT, {"day": day}).fetchone()
                assert row is not None
                expected[row[0]] = day
                moved = ids[turn % len(ids)]
                day = f"{2029 + turn % 5}-06-{1 + turn % 28:02}"
                conn.execute("update catalogue.geometrias set data_referencia = %s where id = %s", [day, moved])
                expected[moved] = day
                if turn % 3 == 0:
                    conn.execute("delete from catalogue.geometrias where id = %s", [row[0]])
                    del expected[row[0]]

    writer = threading.Thread(target=attempt, args=(write, failures))
    writer.start()
    try:
        yield expected, failures
    finally:
        stop.set()
        writer.join(60)
