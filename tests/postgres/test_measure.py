"""A measured run behaves as psql would, and tells what each statement did."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import psycopg
import pytest

from comporta.dryrun.locks import ACCESS_EXCLUSIVE
from comporta.dryrun.measure import Progress, ScriptMeasurement, measure_script, relation_sizes, take_snapshot
from comporta.postgres.connection import connect
from comporta.postgres.script import Script


def script(text: str) -> Script:
    return Script.parse(text.encode(), Path("trial.sql"))


def measure(text: str, dsn: str, **options: object) -> ScriptMeasurement:
    return measure_script(script(text), dsn, role="apply", **options)  # type: ignore[arg-type]


def modes(measured: ScriptMeasurement, number: int) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for hold in measured.statements[number - 1].locks:
        found.setdefault(hold.relation, set()).add(hold.mode)
    return found


def test_locks_of_a_single_statement_are_exact_however_short(catalogue: str) -> None:
    measured = measure(
        "alter table catalogue.layers add column a int; alter table catalogue.layers drop column a", catalogue
    )
    for number in (1, 2):
        assert modes(measured, number)["catalogue.layers"] == {ACCESS_EXCLUSIVE}
    holds = [hold for hold in measured.locks if hold.mode == ACCESS_EXCLUSIVE]
    assert all(hold.exact and hold.reachable and 0 < hold.seconds <= hold.seconds_max for hold in holds)


def test_a_transaction_of_the_script_holds_its_locks_until_its_commit(catalogue: str) -> None:
    measured = measure(
        "begin; lock table catalogue.layers in share mode; select pg_sleep(0.2); select 1; commit; select 2", catalogue
    )
    [hold] = measured.locks
    assert (hold.mode, hold.statement_number, hold.exact) == ("ShareLock", 2, True)
    assert hold.seconds >= 0.2
    assert [each.transaction for each in measured.statements] == ["none", "script", "script", "script", "script", "own"]


def test_a_procedure_that_commits_and_concurrently_are_sampled(catalogue: str) -> None:
    measured = measure(
        """
        do $$ begin
            lock table catalogue.layers in access exclusive mode; perform pg_sleep(0.1); commit;
            lock table catalogue.layers in access exclusive mode; perform pg_sleep(0.1); commit;
        end $$;
        create index concurrently trial_idx on catalogue.geometrias (name, id, layer, data_referencia);
        """,
        catalogue,
    )
    first = [hold for hold in measured.statements[0].locks if hold.mode == ACCESS_EXCLUSIVE]
    assert [hold.relation for hold in first] == ["catalogue.layers"] * 2
    assert all(not hold.exact and hold.seconds_max >= 0.1 for hold in first)
    assert modes(measured, 2)["catalogue.geometrias"] == {"ShareUpdateExclusiveLock"}
    assert measured.trace.complete


def test_what_a_script_prepares_aside_is_not_reachable_until_it_takes_a_used_name(catalogue: str) -> None:
    measured = measure(
        """
        create schema aside;
        create table aside.layers (like catalogue.layers);
        alter table aside.layers add column more int;
        create schema old;
        begin;
        alter view catalogue.geometrias_publicas set schema old;
        alter table catalogue.layers set schema old;
        alter table aside.layers set schema catalogue;
        commit;
        alter table catalogue.layers drop column more;
        alter table old.layers add column more int;
        """,
        catalogue,
    )
    assert measured.error is None
    reachable = {
        (hold.statement_number, hold.relation): hold.reachable
        for hold in measured.locks
        if hold.mode == ACCESS_EXCLUSIVE
    }
    assert reachable[3, "aside.layers"] is False
    assert reachable[7, "catalogue.layers"] is True
    assert reachable[10, "catalogue.layers"] is True
    assert reachable[11, "old.layers"] is False


def test_a_failure_names_file_line_statement_and_what_did_not_run(catalogue: str) -> None:
    measured = measure("select 1;\n\nselect\n  1 / 0\n  from pg_class;\nselect 2;\nselect 3;\n", catalogue)
    assert not measured.ok
    error = measured.error
    assert error is not None
    assert (error.sqlstate, error.statement_number, error.file) == ("22012", 2, "trial.sql")
    assert error.not_run == ("3 (line 6): select 2", "4 (line 7): select 3")
    assert "trial.sql:3: statement 2 failed" in str(error)
    assert len(measured.statements) == 2
    assert json.loads(json.dumps(measured.to_json()))["error_text"] == str(error)


def test_a_failure_is_placed_on_the_line_of_the_word_that_is_wrong(catalogue: str) -> None:
    measured = measure("select 1;\nselect id\n  from catalogue.geometrias\n where no_such_column = 1;\n", catalogue)
    assert measured.error is not None
    assert (measured.error.sqlstate, measured.error.line) == ("42703", 4)


def test_a_failure_in_the_script_s_transaction_leaves_nothing_of_it(catalogue: str) -> None:
    measured = measure("begin; update catalogue.layers set title = 'x'; select 1 / 0; commit", catalogue)
    assert measured.error is not None
    assert measured.error.statement_number == 3
    with psycopg.connect(catalogue) as connection:
        assert connection.execute("select count(*) from catalogue.layers where title = 'x'").fetchone() == (0,)


def test_settings_last_and_lock_table_alone_is_refused_as_psql_would(catalogue: str) -> None:
    """A statement is wrapped in a transaction only where nobody could tell the difference."""
    measured = measure("set lock_timeout = '77ms'; select 1; lock table catalogue.layers", catalogue)
    assert measured.statements[1].lock_timeout_ms == 77
    assert measured.error is not None
    assert measured.error.sqlstate == "25P01"


def test_a_statement_that_refuses_a_transaction_runs_without_one(catalogue: str) -> None:
    measured = measure("vacuum catalogue.layers; reindex schema catalogue; discard all", catalogue)
    assert measured.error is None
    assert [each.transaction for each in measured.statements] == ["none", "none", "none"]


def test_rewrites_rows_and_bytes_are_counted(catalogue: str) -> None:
    measured = measure(
        """
        alter table catalogue.annotations add column token uuid default gen_random_uuid();
        update catalogue.layers set title = title;
        create table catalogue.extra as select g as id, repeat('x', 100) as text from generate_series(1, 5000) g;
        truncate catalogue.inspections;
        """,
        catalogue,
    )
    first, second, third, fourth = measured.statements
    assert "catalogue.annotations" in {rewrite.relation for rewrite in first.rewrites}
    assert second.rows >= 3
    assert third.rows == 5_000
    assert third.wal_bytes > 5_000 * 100
    assert third.wal_source == "session"
    assert "catalogue.inspections" in {rewrite.relation for rewrite in fourth.rewrites}
    assert measured.wal_bytes >= third.wal_bytes
    assert measured.peak_database_bytes >= measured.before.database_bytes > 0


def test_a_rewrite_inside_a_transaction_of_the_script_is_told_once_where_it_happened(catalogue: str) -> None:
    measured = measure(
        "begin; select 1; alter table catalogue.annotations add column t uuid default gen_random_uuid(); select 2; commit",
        catalogue,
    )
    told = [statement.number for statement in measured.statements for r in statement.rewrites if r.kind == "r"]
    assert told == [3]


def test_a_sampled_lock_belongs_to_the_statement_that_took_it(catalogue: str) -> None:
    """Also when the next statement follows at once."""
    measured = measure(
        "do $$ begin lock table catalogue.layers in access exclusive mode; perform pg_sleep(0.05); end $$;"
        "do $$ begin null; end $$;"
        "vacuum catalogue.annotations;"
        "do $$ begin lock table catalogue.annotations in share mode; perform pg_sleep(0.05); end $$",
        catalogue,
    )
    assert modes(measured, 1) == {"catalogue.layers": {ACCESS_EXCLUSIVE}}
    assert modes(measured, 2) == {}
    assert modes(measured, 4) == {"catalogue.annotations": {"ShareLock"}}


def test_wal_of_others_is_left_out(catalogue: str) -> None:
    """A neighbour under another role writes much more meanwhile."""
    stop = threading.Event()
    neighbour = threading.Thread(target=write_much, args=(catalogue, stop))
    neighbour.start()
    try:
        measured = measure("select pg_sleep(0.3); update catalogue.layers set title = title", catalogue)
    finally:
        stop.set()
        neighbour.join()
    assert measured.statements[0].wal_bytes < 10_000


def write_much(dsn: str, stop: threading.Event) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set role gis_owner")
        while not stop.is_set():
            connection.execute("update catalogue.geometrias set properties = properties where id <= 200")


def test_progress_and_notices_are_told_as_they_come(catalogue: str) -> None:
    events: list[Progress] = []
    measured = measure("do $$ begin raise notice 'half way'; end $$;\nselect 1", catalogue, on_event=events.append)
    assert [str(event) for event in events if event.seconds is None] == [
        "1/2 do $$ begin raise notice 'half way'; end $$",
        "1/2 notice: half way",
        "2/2 select 1",
    ]
    assert measured.statements[0].notices == ("half way",)


def test_a_measurement_survives_json(catalogue: str) -> None:
    measured = measure("alter table catalogue.layers add column a int; vacuum catalogue.layers", catalogue)
    assert ScriptMeasurement.from_dict(json.loads(json.dumps(measured.to_json()))) == measured


def test_a_snapshot_knows_invalid_indexes_sizes_and_stray_rows(catalogue: str) -> None:
    with connect(catalogue, name="test") as connection:
        connection.execute("create table catalogue.parts (a int) partition by list (a)")
        connection.execute("create table catalogue.rest partition of catalogue.parts default")
        connection.execute("insert into catalogue.parts select generate_series(1, 7)")
        connection.execute("alter table catalogue.layers add constraint later check (title <> '') not valid")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("create unique index concurrently broken on catalogue.geometrias (layer)")
        snapshot = take_snapshot(connection)
        sizes = relation_sizes(connection)
    assert snapshot.invalid_indexes == ("catalogue.broken",)
    assert snapshot.default_rows == {"catalogue.rest": 7}
    assert snapshot.not_valid_constraints == ("catalogue.layers.later",)
    assert sizes["catalogue.geometrias"] > 1_000_000
    assert "catalogue.geometrias_pkey" not in sizes
