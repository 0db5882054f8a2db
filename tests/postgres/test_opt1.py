"""OPT1 partitions geometrias and gives it back: nothing that hangs on it and no write is lost, wherever it is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comporta.demo.traffic import Traffic, lost_writes
from comporta.errors import StatementFailed
from comporta.postgres.connection import Connection, connect, with_options
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.proof.checksum import TableChecksum, checksum_tables
from comporta.proof.fingerprint import SEQUENCE_POSITIONS, Fingerprint, diff, take

SQL = Path(__file__).resolve().parents[2] / "sql"
APPLY = SQL / "apply/OPT1_temporal_partitioning_geometrias.sql"
VERIFY = SQL / "verify/OPT1_temporal_partitioning_geometrias.sql"
ROLLBACK = SQL / "rollback/ROLLBACK_OPT1_temporal_partitioning_geometrias.sql"
APPLY_STATEMENTS = len(Script.read(APPLY).statements)
ROLLBACK_STATEMENTS = len(Script.read(ROLLBACK).statements)


def statement_number(path: Path, marker: str) -> int:
    """Number of the only statement that contains ``marker``."""
    (number,) = [each.number for each in Script.read(path).statements if marker in each.sql]
    return number


SWAP = statement_number(APPLY, "with_lock(array['comporta_opt1_next.geometrias']")
LEFTOVERS = """
    select 'step ' || change || ' ' || step from comporta.step
    union all select 'log ' || log from comporta.row_log
    union all select 'schema ' || nspname from pg_namespace where nspname like 'comporta\\_%'
    union all select 'routine ' || proname from pg_proc
              where pronamespace = 'comporta'::regnamespace and proname ~ '^(opt1_|geometrias_)'"""


def run(dsn: str, path: Path, upto: int | None = None) -> None:
    """Run a script, or its first ``upto`` statements as if it were killed there, on a connection of its own."""
    script = Script.read(path)
    with connect(dsn, name="change") as conn:
        run_script(conn, Script(script.path, script.sha256, script.statements[:upto]))


def do(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements one by one as a superuser and return the rows of the last."""
    with connect(dsn, name="test") as conn:
        for statement in statements:
            cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def picture(dsn: str) -> tuple[Fingerprint, dict[str, TableChecksum]]:
    with connect(dsn, name="test") as conn:
        return take(conn), checksum_tables(conn)


def assert_same(
    before: tuple[Fingerprint, dict[str, TableChecksum]], dsn: str, *, ignore: tuple[str, ...] = (), rows: bool = True
) -> None:
    """The catalogue is that of ``before``, and nothing of OPT1 is left."""
    found = picture(dsn)
    assert [str(each) for each in diff(before[0], found[0], ignore)] == []
    if rows:
        assert found[1] == before[1]
    assert do(dsn, LEFTOVERS) == []


def wait_until(conn: Connection, query: str, running: Future[Any] | None = None) -> None:
    """Ask until a row comes back, at most 3,000 times; ``running`` must not end before."""
    for _ in range(3_000):
        if conn.execute(query.encode()).fetchone() is not None:
            return
        assert running is None or not running.done(), running.exception()
        conn.execute("select pg_sleep(0.01)")
    raise AssertionError(f"never came true: {query}")


@pytest.fixture
def opt1(catalogue: str) -> str:
    """The demo catalogue with OPT1 applied."""
    run(catalogue, APPLY)
    return catalogue


def test_apply_and_rollback_give_back_the_same_catalogue_twice_in_a_row(catalogue: str) -> None:
    """Every fact, every row and every sequence position is as before, and each script may run again when it is done."""
    before = picture(catalogue)
    for _ in range(2):
        for path in (APPLY, APPLY, VERIFY, ROLLBACK, ROLLBACK):
            run(catalogue, path)
        assert_same(before, catalogue)


def test_the_applied_table_shows_the_same_rows_and_keeps_its_name_grants_and_comments(catalogue: str) -> None:
    """What people see of geometrias does not change: rows, grants, policies, triggers, comments, identity position."""
    before = picture(catalogue)
    run(catalogue, APPLY)
    found = picture(catalogue)
    assert found[1]["catalogue.geometrias"] == before[1]["catalogue.geometrias"]
    lost = [
        str(each)
        for each in diff(before[0], found[0])
        if each.found is None and (each.object_kind != "table" or "partition" in each.property)
    ]
    assert [each for each in lost if "comporta" not in each and "REFERENCES catalogue.geometrias(id)" not in each] == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("alter table catalogue.geometrias detach partition catalogue.geometrias_2019", "geometrias_2019 attached"),
        ("drop trigger geometrias_ids_keep on catalogue.geometrias", "geometrias_ids_keep"),
        ("drop trigger geometrias_ids_move on catalogue.geometrias", "geometrias_ids_move"),
        ("alter table catalogue.geometrias disable trigger geometrias_ids_rekey", "geometrias_ids_rekey"),
        ("drop trigger comporta_log on catalogue.geometrias", "comporta_log"),
        (
            "set session_replication_role = replica;"
            " delete from catalogue.geometrias_ids where id = (select max(id) from catalogue.geometrias_ids)",
            "1 rows without an entry and 0 entries without a row",
        ),
        (
            "insert into catalogue.geometrias_ids values (-5, '2020-01-01')",
            "0 rows without an entry and 1 entries without a row",
        ),
        (
            "alter table catalogue.annotations drop constraint annotations_geometria_fkey,"
            " add constraint annotations_geometria_fkey foreign key (geometria_id)"
            " references catalogue.geometrias_ids (id) on delete cascade not valid",
            "annotations_geometria_fkey",
        ),
        ("alter table catalogue.inspections drop constraint inspections_geometria_fkey", "inspections_geometria_fkey"),
        ("alter table comporta_opt1_before.geometrias enable trigger geometrias_touch", "stands by"),
        ("drop index catalogue.geometrias_data_idx", "indexes on catalogue.geometrias"),
    ],
    ids=lambda value: value[:40] if " " in value else None,
)
def test_verify_names_what_is_half_there(opt1: str, damage: str, complaint: str) -> None:
    """Half of OPT1 does not pass for OPT1."""
    run(opt1, VERIFY)
    do(opt1, damage)
    with pytest.raises(StatementFailed, match=complaint):
        run(opt1, VERIFY)


def test_verify_fails_where_opt1_is_absent(catalogue: str) -> None:
    """Before the apply and after the rollback alike."""
    for _ in range(2):
        with pytest.raises(StatementFailed, match="apply has not reached its swap"):
            run(catalogue, VERIFY)
        run(catalogue, APPLY)
        run(catalogue, ROLLBACK)


WRITES = [
    "insert into catalogue.geometrias (layer, name, geom, data_referencia)"
    " select layer, 'Nova', geom, '2031-05-05' from catalogue.geometrias where id = 1",
    "insert into catalogue.geometrias (id, layer, name, geom, data_referencia)"
    " select 900001, layer, 'Passageira', geom, '2016-05-05' from catalogue.geometrias where id = 1",
    "update catalogue.geometrias set name = 'Outra', properties = '{\"rev\": 7}' where id = 2",
    "update catalogue.geometrias set data_referencia = '2027-03-03' where id = 3",
    "update catalogue.geometrias set data_referencia = '2016-03-03' where id = 4",
    "update catalogue.geometrias set data_referencia = '2026-03-03' where id = 4",
    "update catalogue.geometrias set data_referencia = '2016-03-03' where id = 4",
    "update catalogue.geometrias set id = 900002 where id = 900001",
    "update catalogue.geometrias set id = 900003, data_referencia = '2030-01-01' where id = 900002",
    "delete from catalogue.geometrias where id = (select min(g.id) from catalogue.geometrias g where g.id > 10"
    " and not exists (select from catalogue.inspections i where i.geometria_id = g.id))",
    "insert into catalogue.annotations (geometria_id, author, body) values (3, 'ana', 'mudou de ano')",
]


def test_writes_after_apply_survive_the_rollback(catalogue: str) -> None:
    """Inserted, changed, moved, moved there and back, given another id, deleted: the plain table has it all."""
    before = picture(catalogue)
    run(catalogue, APPLY)
    do(catalogue, *WRITES)
    applied = picture(catalogue)
    run(catalogue, VERIFY)
    run(catalogue, ROLLBACK)
    assert_same(before, catalogue, ignore=(SEQUENCE_POSITIONS,), rows=False)
    found = picture(catalogue)
    tables = ("geometrias", "annotations", "inspections", "edits", "layers")
    assert {name: found[1][f"catalogue.{name}"] for name in tables} == {
        name: applied[1][f"catalogue.{name}"] for name in tables
    }
    assert found[1]["catalogue.geometrias"] != before[1]["catalogue.geometrias"]
    (row,) = do(
        catalogue,
        "insert into catalogue.geometrias (layer, name, geom, data_referencia)"
        " select layer, 'Depois', geom, '2020-05-05' from catalogue.geometrias where id = 1 returning id",
    )
    assert row[0] == max(each[0] for each in do(catalogue, "select id from catalogue.geometrias where id < 900000"))


ATTACHED = [
    "grant select (name) on catalogue.geometrias to app_reader",
    "grant insert on catalogue.geometrias to app_editor with grant option",
    "revoke delete on catalogue.geometrias from gis_editor",
    "revoke update (geom) on catalogue.geometrias from gis_editor",
    "grant usage on sequence catalogue.geometrias_id_seq to gis_editor",
    "comment on sequence catalogue.geometrias_id_seq is 'Counts outlines.'",
    "drop policy geometrias_public on catalogue.geometrias",
    "create policy late on catalogue.geometrias as restrictive for update to app_editor, gis_editor using (name <> 'a''b')",
    "comment on policy late on catalogue.geometrias is 'Later.'",
    "alter table catalogue.geometrias force row level security",
    "drop trigger geometrias_touch on catalogue.geometrias",
    "alter table catalogue.geometrias disable trigger geometrias_record_edit",
    "create trigger \"Late one\" before insert on catalogue.geometrias for each row when (new.name = 'x')"
    " execute function catalogue.geometrias_touch()",
    'alter table catalogue.geometrias enable always trigger "Late one"',
    "comment on trigger \"Late one\" on catalogue.geometrias is 'Later.'",
    "create trigger late_statement after update on catalogue.geometrias referencing old table as former"
    " for each statement execute function catalogue.geometrias_record_edit()",
    "comment on table catalogue.geometrias is null",
    "comment on column catalogue.geometrias.layer is 'Theme.'",
    "comment on constraint geometrias_pkey on catalogue.geometrias is 'The number.'",
    "comment on index catalogue.geometrias_geom_idx is null",
    "comment on index catalogue.geometrias_data_idx is 'By time.'",
    "alter table catalogue.inspections drop constraint inspections_geometria_fkey",
    "alter table catalogue.geometrias drop constraint geometrias_layer_fkey",
    "create view catalogue.late_view with (security_barrier) as select g.id, catalogue.label(g) from catalogue.geometrias g",
    "create function catalogue.late_rows() returns setof catalogue.geometrias language sql stable"
    " as 'select * from catalogue.geometrias'",
    "alter publication catalogue_feed set table catalogue.layers",
]


def test_what_was_attached_or_dropped_after_apply_is_so_after_the_rollback(servers: Any) -> None:
    """Apply, alter, roll back leaves the catalogue that altering alone leaves."""
    dsn = servers.shadow.fresh_catalogue()
    do(dsn, *ATTACHED)
    expected = picture(dsn)
    dsn = servers.shadow.fresh_catalogue()
    run(dsn, APPLY)
    do(dsn, *ATTACHED)
    run(dsn, ROLLBACK)
    assert_same(expected, dsn)


def test_what_was_attached_before_apply_comes_back_and_is_in_force_meanwhile(catalogue: str) -> None:
    """The same oddities, carried to the partitioned table and back."""
    do(catalogue, *(each for each in ATTACHED if "force row" not in each))
    before = picture(catalogue)
    for _ in range(2):
        run(catalogue, APPLY)
        run(catalogue, VERIFY)
        (rows,) = do(
            catalogue, "select (select count(*) from catalogue.late_rows()), (select count(*) from catalogue.late_view)"
        )
        assert rows[0] == rows[1] == before[1]["catalogue.geometrias"].rows
        run(catalogue, ROLLBACK)
        assert_same(before, catalogue)


ODDITIES = {
    "a chain of grants": [
        "grant select, insert on catalogue.geometrias to gis_editor with grant option",
        "set role gis_editor",
        "grant select on catalogue.geometrias to app_reader",
        "reset role",
    ],
    "deferrable and not validated keys": [
        "alter table catalogue.annotations alter constraint annotations_geometria_fkey deferrable initially deferred",
        "alter table catalogue.inspections drop constraint inspections_geometria_fkey, add constraint inspections_geometria_fkey"
        " foreign key (geometria_id) references catalogue.geometrias (id) on update cascade deferrable not valid",
        "comment on constraint inspections_geometria_fkey on catalogue.inspections is 'Not yet.'",
    ],
    "replica identity full": ["alter table catalogue.geometrias replica identity full"],
    "statistics elsewhere": [
        "create schema elsewhere authorization gis_owner",
        "create statistics elsewhere.pairs (ndistinct) on layer, name from catalogue.geometrias",
        "alter statistics elsewhere.pairs owner to gis_owner",
        "comment on statistics elsewhere.pairs is 'Elsewhere.'",
    ],
    "an index with a strange name": [
        'create unique index "ge%I o\\metrias ""x" on catalogue.geometrias (id, data_referencia) include (layer) where id > 5',
        'comment on index catalogue."ge%I o\\metrias ""x" is \'Strange.\'',
    ],
    "a constraint trigger": [
        "create constraint trigger late after update on catalogue.geometrias deferrable initially deferred"
        " for each row execute function catalogue.geometrias_record_edit()",
    ],
    "default privileges": [
        "alter default privileges grant select on tables to app_reader",
        "alter default privileges grant usage on sequences to app_reader",
        "alter default privileges grant execute on functions to app_reader",
        "alter default privileges grant usage on schemas to app_reader",
    ],
    "a function whose body is parsed": [
        "create function catalogue.counted() returns bigint language sql stable"
        " begin atomic select count(*) from catalogue.geometrias; end",
        "create function catalogue.names(g catalogue.geometrias[]) returns text language sql begin atomic select $1[1].name; end",
    ],
    "a filtered publication": [
        "alter publication catalogue_feed set table catalogue.geometrias (id, name, data_referencia) where (id > 7)",
        "alter publication catalogue_feed set (publish_via_partition_root = true)",
        "create publication second for table catalogue.geometrias",
    ],
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_oddities_make_the_round_trip(catalogue: str, oddity: str) -> None:
    """Each of them is in force on the partitioned table, and as before afterwards, writes included."""
    do(catalogue, *ODDITIES[oddity])
    before = picture(catalogue)
    run(catalogue, APPLY)
    run(catalogue, VERIFY)
    run(catalogue, ROLLBACK)
    assert_same(before, catalogue)
    run(catalogue, APPLY)
    do(catalogue, *WRITES)
    run(catalogue, VERIFY)
    run(catalogue, ROLLBACK)
    assert_same(before, catalogue, ignore=(SEQUENCE_POSITIONS,), rows=False)


def test_a_key_added_after_apply_points_at_the_plain_table_after_the_rollback(opt1: str) -> None:
    """People reference the registry meanwhile; the key follows, validated as it was."""
    do(
        opt1,
        "create table catalogue.photos (geometria_id bigint constraint photos_fkey references catalogue.geometrias_ids (id))",
        "insert into catalogue.photos values (3)",
    )
    run(opt1, ROLLBACK)
    assert do(
        opt1, "select pg_get_constraintdef(oid), convalidated from pg_constraint where conname = 'photos_fkey'"
    ) == [("FOREIGN KEY (geometria_id) REFERENCES catalogue.geometrias(id)", True)]


INSERT = (
    "insert into catalogue.geometrias (id, layer, name, geom, data_referencia)"
    " select {id}, layer, 'Dupla', geom, '{day}' from catalogue.geometrias where id = 1"
)


@pytest.mark.parametrize(
    "statement",
    [
        INSERT.format(id=2, day="2031-01-01"),
        "update catalogue.geometrias set id = 2 where id = 3",
        "update catalogue.geometrias set id = 2, data_referencia = '2031-01-01' where id = 3",
    ],
    ids=["insert", "new id", "new id and leaf"],
)
def test_a_duplicate_id_violates_the_former_key_by_name(opt1: str, statement: str) -> None:
    """The same SQLSTATE and constraint name as before, in whatever leaf the other row is; nothing changes."""
    do(
        opt1,
        "delete from catalogue.inspections where geometria_id = 3",
        "delete from catalogue.annotations where geometria_id = 3",
    )
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        do(opt1, statement)
    assert caught.value.diag.constraint_name == "geometrias_pkey"
    assert "(id)=(2)" in str(caught.value.diag.message_detail)
    run(opt1, VERIFY)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_of_two_sessions_that_insert_one_id_only_one_succeeds(opt1: str, end: str) -> None:
    """The second waits for the first, and is refused only if that one stays."""
    with connect(opt1, name="first") as first, connect(opt1, name="eye") as eye, ThreadPoolExecutor(1) as pool:
        first.execute("begin")
        first.execute(INSERT.format(id=910_000, day="2016-01-01").encode())
        second = pool.submit(do, opt1, INSERT.format(id=910_000, day="2020-01-01"))
        wait_until(eye, "select from pg_locks where locktype = 'transactionid' and not granted", second)
        first.execute(end.encode())
        error = second.exception()
    if end == "commit":
        assert isinstance(error, psycopg.errors.UniqueViolation)
        assert error.diag.constraint_name == "geometrias_pkey"
    else:
        assert error is None
    assert do(opt1, "select count(*) from catalogue.geometrias where id = 910000") == [(1,)]
    run(opt1, VERIFY)


def test_a_caller_s_temporary_types_do_not_reach_the_triggers(opt1: str) -> None:
    """A trigger that runs as its owner never evaluates what the caller put into pg_temp."""
    with connect(opt1, name="attacker") as conn:
        conn.execute("create table public.seen (who text)")
        conn.execute("grant insert on public.seen to public")
        conn.execute("grant create on schema public to gis_editor")
        conn.execute("set role gis_editor")
        conn.execute(
            "create function public.spy(text) returns boolean language plpgsql"
            " as $$ begin insert into public.seen values (current_user); return true; end $$"
        )
        for name in ("oid", "regclass", "int8", "text"):
            conn.execute(f"create domain pg_temp.{name} as pg_catalog.text check (public.spy(value))".encode())
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute(INSERT.format(id=2, day="2031-01-01").encode())
        conn.execute("update catalogue.geometrias set data_referencia = '2031-01-01' where id = 3")
        conn.execute("reset role")
        assert conn.execute("select who from public.seen").fetchall() == []


def test_moving_a_row_keeps_what_references_it(opt1: str) -> None:
    """A move to another leaf is no deletion: annotations stay, inspections do not forbid it."""
    ((moved,),) = do(
        opt1,
        "select a.geometria_id from catalogue.annotations a join catalogue.inspections using (geometria_id) limit 1",
    )
    count = f"select count(*) from catalogue.annotations where geometria_id = {moved}"
    before = do(opt1, count)
    for day in ("2030-01-01", "2016-01-01", "2016-02-01", "2028-12-31"):
        do(opt1, f"update catalogue.geometrias set data_referencia = '{day}' where id = {moved}")
    assert do(opt1, count) == before
    run(opt1, VERIFY)


def test_deleting_cascades_to_annotations_and_is_refused_by_inspections(opt1: str) -> None:
    """The keys act through the registry as they did."""
    ((inspected,),) = do(opt1, "select min(geometria_id) from catalogue.inspections")
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught:
        do(opt1, f"delete from catalogue.geometrias where id = {inspected}")
    assert caught.value.diag.constraint_name == "inspections_geometria_fkey"
    do(
        opt1,
        f"delete from catalogue.inspections where geometria_id = {inspected}",
        f"insert into catalogue.annotations (geometria_id, author, body) values ({inspected}, 'ana', 'fica ou vai')",
        f"delete from catalogue.geometrias where id = {inspected}",
    )
    assert do(opt1, f"select count(*) from catalogue.annotations where geometria_id = {inspected}") == [(0,)]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        do(opt1, f"insert into catalogue.annotations (geometria_id, author, body) values ({inspected}, 'ana', 'tarde')")
    run(opt1, VERIFY)


def test_truncate_is_refused_while_copying_and_afterwards(catalogue: str) -> None:
    """It would leave no trace for the replay."""
    run(catalogue, APPLY, statement_number(APPLY, "'share row exclusive');\n    end if;\nend"))
    for _ in range(2):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="rollback of OPT1"):
            do(catalogue, "truncate catalogue.geometrias cascade")
        run(catalogue, APPLY)
    run(catalogue, ROLLBACK)


def test_prepared_statements_of_open_sessions_go_on(catalogue: str) -> None:
    """A session that prepared its statements before the swap never notices, there and back."""
    with connect(catalogue, name="application") as conn:

        def work() -> None:
            for _ in range(7):
                conn.execute("update catalogue.geometrias set name = name || %s where id = %s", ["x", 5], prepare=True)
                conn.execute(
                    "select g.*, catalogue.label(g) from catalogue.geometrias g where id = %s", [5], prepare=True
                )
                conn.execute("select * from catalogue.geometrias_publicas where id = %s", [5], prepare=True)

        work()
        run(catalogue, APPLY)
        work()
        run(catalogue, ROLLBACK)
        work()
        assert conn.execute("select right(name, 21) from catalogue.geometrias where id = 5").fetchone() == ("x" * 21,)


@pytest.mark.parametrize(
    ("alteration", "complaint"),
    [
        (
            "alter table catalogue.geometrias add column altitude integer",
            'column altitude: expected "absent", found "integer"',
        ),
        ("alter table catalogue.geometrias drop column created_at", "column created_at"),
        ("alter table catalogue.geometrias alter column restricted set default true", "column restricted"),
        ("create index late_idx on catalogue.geometrias (name)", "index late_idx"),
        ("drop index catalogue.geometrias_data_idx", "index geometrias_data_idx"),
        ("alter table catalogue.geometrias add constraint late_check check (id > 0)", "check constraint late_check"),
        ("alter table catalogue.geometrias drop constraint geometrias_valid_time", "geometrias_valid_time"),
        ("create statistics catalogue.late on layer, name from catalogue.geometrias", "statistics late"),
        (
            "create materialized view catalogue.late as select id from catalogue.geometrias",
            "materialized view catalogue.late",
        ),
        (
            "create rule late as on insert to catalogue.layers do also delete from catalogue.geometrias where false",
            "rule late",
        ),
        ("create table catalogue.late (one catalogue.geometrias)", "column one of table catalogue.late"),
        (
            "create table catalogue.late (id bigint, day date, constraint late_fkey"
            " foreign key (id, day) references catalogue.geometrias)",
            "foreign key late_fkey of catalogue.late",
        ),
    ],
    ids=lambda value: value[:48] if " " in value else None,
)
def test_rollback_refuses_by_name_what_it_would_lose(opt1: str, alteration: str, complaint: str) -> None:
    """Nothing is changed by the refusal: rows, catalogue and log are as they were, and the traffic may go on."""
    do(opt1, alteration, "update catalogue.geometrias set name = 'Fica' where id = 2")
    before = picture(opt1)
    log = do(opt1, "select log, id from comporta.row_log order by seq")
    with pytest.raises(StatementFailed, match="cannot be rolled back") as caught:
        run(opt1, ROLLBACK)
    assert complaint in str(caught.value)
    found = picture(opt1)
    assert [str(each) for each in diff(before[0], found[0])] == []
    assert found[1] == before[1]
    assert do(opt1, "select log, id from comporta.row_log order by seq") == log


def test_the_way_out_of_a_refused_rollback_works(opt1: str) -> None:
    """A column added to the table that stands by as well is filled by the replay."""
    for table in ("catalogue.geometrias", "comporta_opt1_before.geometrias"):
        do(opt1, f"alter table {table} add column altitude integer")
    do(opt1, "update catalogue.geometrias set altitude = 7 where id = 2")
    run(opt1, ROLLBACK)
    assert do(opt1, "select altitude from catalogue.geometrias where id in (2, 3) order by id") == [(7,), (None,)]


@pytest.mark.parametrize("change", ["OPT2", "OPT4"])
def test_rollback_is_refused_while_another_change_stands_on_it(opt1: str, change: str) -> None:
    """The one to roll back first is named."""
    do(opt1, f"select comporta.mark('{change}', 'started')")
    with pytest.raises(StatementFailed, match=f"{change} stands on it"):
        run(opt1, ROLLBACK)
    do(opt1, f"select comporta.forget('{change}')")
    run(opt1, VERIFY)
    run(opt1, ROLLBACK)


@pytest.mark.parametrize(
    ("obstacle", "complaint"),
    [
        (
            "create materialized view catalogue.kept as select id from catalogue.geometrias",
            "materialized view catalogue.kept",
        ),
        ("create unique index kept on catalogue.geometrias (id, name)", "unique index catalogue.kept"),
        (
            "create unique index kept on catalogue.geometrias (id) include (data_referencia)",
            "unique index catalogue.kept",
        ),
        (
            "create index kept on catalogue.geometrias (name);"
            " update pg_index set indisvalid = false where indexrelid = 'catalogue.kept'::regclass",
            "index catalogue.kept is invalid",
        ),
        ("create rule kept as on delete to catalogue.geometrias do also notify gone", "rule kept"),
        (
            "create rule kept as on insert to catalogue.layers do also delete from catalogue.geometrias where false",
            "rule kept",
        ),
        (
            "create rule kept as on delete to catalogue.geometrias_publicas"
            " do instead delete from catalogue.geometrias where false",
            "rule kept",
        ),
        ("create table catalogue.kept (one catalogue.geometrias)", "column one of table catalogue.kept"),
        ("create table catalogue.kept () inherits (catalogue.geometrias)", "table catalogue.kept"),
        ("alter table catalogue.geometrias add constraint kept unique (id, data_referencia)", "unique constraint"),
        (
            "alter table catalogue.geometrias add constraint kept exclude using btree (id with =)",
            "exclusion constraint",
        ),
        ("alter table catalogue.geometrias add constraint kept check (id < 10) not valid", "kept is not validated"),
        (
            "create trigger kept after insert on catalogue.geometrias referencing new table as fresh for each row"
            " execute function catalogue.geometrias_touch()",
            "trigger kept has transition tables",
        ),
        ("create publication kept for all tables", "publication kept"),
        ("create publication kept for tables in schema catalogue", "publication kept"),
        ("create publication kept for table catalogue.geometrias (id, name)", "publication kept lists columns"),
        ("alter table catalogue.geometrias replica identity using index geometrias_pkey", "replica identity"),
        ("create table catalogue.geometrias_ids (id bigint)", "geometrias_ids exists already"),
        ("create table catalogue.geometrias_2020 (id bigint)", '"geometrias_2020" already exists'),
    ],
    ids=lambda value: value[:60] if " " in value else None,
)
def test_apply_refuses_what_it_cannot_carry_and_leaves_nothing_behind(
    catalogue: str, obstacle: str, complaint: str
) -> None:
    """Refused by name before anything is made; the rollback that may follow touches nothing of what was there."""
    do(catalogue, obstacle)
    before = picture(catalogue)
    with pytest.raises(StatementFailed) as caught:
        run(catalogue, APPLY)
    assert complaint in str(caught.value)
    run(catalogue, ROLLBACK)
    assert_same(before, catalogue)
    do(catalogue, "drop publication if exists kept")


@pytest.mark.parametrize(
    "alteration",
    [
        "alter table catalogue.geometrias add column altitude integer",
        "create index late_idx on catalogue.geometrias (name)",
        "alter table catalogue.geometrias drop constraint geometrias_name_not_blank",
    ],
)
def test_a_table_altered_while_it_was_copied_is_not_swapped(servers: Any, alteration: str) -> None:
    """A column added between two runs would be missing in the copy: the swap refuses, and the rollback clears up."""
    dsn = servers.shadow.fresh_catalogue()
    do(dsn, alteration)
    expected = picture(dsn)
    dsn = servers.shadow.fresh_catalogue()
    run(dsn, APPLY, SWAP - 1)
    do(dsn, alteration)
    with pytest.raises(StatementFailed, match="altered while it was copied"):
        run(dsn, APPLY)
    run(dsn, ROLLBACK)
    assert_same(expected, dsn)


def test_apply_converges_after_a_kill_at_any_statement(catalogue: str) -> None:
    """All boundaries: killed, written to, run again: verified. Killed, written to, rolled back: as before, writes kept."""
    before = picture(catalogue)
    run(catalogue, APPLY)
    whole = picture(catalogue)
    run(catalogue, ROLLBACK)
    for upto in range(1, APPLY_STATEMENTS):
        run(catalogue, APPLY, upto)
        do(catalogue, f"update catalogue.geometrias set name = 'Corte {upto}', updated_at = now() where id = {upto}")
        run(catalogue, APPLY)
        run(catalogue, VERIFY)
        found = picture(catalogue)
        assert [str(each) for each in diff(whole[0], found[0], (SEQUENCE_POSITIONS,))] == [], upto
        run(catalogue, ROLLBACK)
        run(catalogue, APPLY, upto)
        do(catalogue, f"update catalogue.geometrias set layer = layer where id = {upto}")
        run(catalogue, ROLLBACK)
        assert_same(before, catalogue, ignore=(SEQUENCE_POSITIONS,), rows=False)
        assert do(catalogue, f"select name from catalogue.geometrias where id = {upto}") == [(f"Corte {upto}",)]


def test_rollback_converges_after_a_kill_at_any_statement(catalogue: str) -> None:
    """All boundaries: the rollback continues, and apply either continues or refuses until it is finished."""
    before = picture(catalogue)
    for upto in range(1, ROLLBACK_STATEMENTS):
        for reached in (SWAP - 1, None):
            run(catalogue, APPLY, reached)
            run(catalogue, ROLLBACK, upto)
            do(catalogue, f"update catalogue.geometrias set name = 'Volta {upto}' where id = {upto}")
            try:
                run(catalogue, APPLY)
                run(catalogue, VERIFY)
            except StatementFailed as error:
                assert "rollback has begun and is not finished" in str(error)  # noqa: PT017 - both outcomes are right
            run(catalogue, ROLLBACK)
            assert_same(before, catalogue, ignore=(SEQUENCE_POSITIONS,), rows=False)
            assert do(catalogue, f"select name from catalogue.geometrias where id = {upto}") == [(f"Volta {upto}",)]


def end_while_it_waits(dsn: str, path: Path, blocker: Connection, blocking: str) -> None:
    """Start a script, and end its backend where it waits for what ``blocking`` holds."""
    with connect(dsn, name="eye") as eye, ThreadPoolExecutor(1) as pool:
        blocker.execute("begin")
        blocker.execute(blocking.encode())
        script = pool.submit(run, dsn, path)
        pid = "(select pid from pg_stat_activity where application_name = 'change' and wait_event_type = 'Lock')"
        wait_until(eye, f"select where exists {pid}", script)
        eye.execute(f"select pg_terminate_backend(pid) from {pid} w".encode())
        assert isinstance(script.exception(), Exception)
        blocker.execute("rollback")


def test_a_backend_ended_within_the_copy_loses_nothing(catalogue: str) -> None:
    """Leaves copied before stay, the one under way is copied again, and changes in between are replayed."""
    before = picture(catalogue)
    run(catalogue, APPLY, statement_number(APPLY, "rows copied (up to") - 1)
    with connect(catalogue, name="blocker") as blocker:
        end_while_it_waits(catalogue, APPLY, blocker, "lock table catalogue.geometrias_2021 in access exclusive mode")
    steps = {row[0] for row in do(catalogue, "select step from comporta.step where change = 'OPT1'")}
    assert "copied geometrias_2020" in steps
    assert "copied geometrias_2021" not in steps
    do(catalogue, *WRITES)
    rows = picture(catalogue)[1]["catalogue.geometrias"]
    run(catalogue, APPLY)
    run(catalogue, VERIFY)
    assert picture(catalogue)[1]["catalogue.geometrias"] == rows
    run(catalogue, ROLLBACK)
    assert_same(before, catalogue, ignore=(SEQUENCE_POSITIONS,), rows=False)
    assert picture(catalogue)[1]["catalogue.geometrias"] == rows


@pytest.mark.parametrize("way", ["apply", "rollback"])
def test_a_backend_ended_within_the_replay_loses_nothing(catalogue: str, way: str) -> None:
    """One batch is through, the next is undone with its log entries, and the next run replays them."""
    before = picture(catalogue)
    run(catalogue, APPLY, statement_number(APPLY, "'analyzed'") if way == "apply" else None)
    do(
        catalogue,
        "update catalogue.geometrias set name = name || ' x' where id <= 2500",
        "update catalogue.geometrias set data_referencia = '2030-06-01' where id = 2600",
    )
    rows = picture(catalogue)[1]["catalogue.geometrias"]
    path, other = (APPLY, "comporta_opt1_next") if way == "apply" else (ROLLBACK, "comporta_opt1_before")
    with connect(catalogue, name="blocker") as blocker:
        end_while_it_waits(catalogue, path, blocker, f"select from {other}.geometrias where id = 2600 for update")
    log = "OPT1/before" if way == "apply" else "OPT1/after"
    ((left,),) = do(catalogue, f"select count(distinct id) from comporta.row_log where log = '{log}'")
    assert 0 < left < 1000
    run(catalogue, path)
    assert picture(catalogue)[1]["catalogue.geometrias"] == rows
    if way == "apply":
        run(catalogue, VERIFY)
        run(catalogue, ROLLBACK)
    assert_same(before, catalogue, ignore=(SEQUENCE_POSITIONS,), rows=False)
    assert picture(catalogue)[1]["catalogue.geometrias"] == rows


@pytest.fixture
def runner(servers: Any, catalogue: str) -> Iterator[str]:
    """Conninfo of a role that is no superuser: a member of gis_owner, which owns the publication and may create schemas."""
    do(
        catalogue,
        "drop schema comporta cascade",
        "create role opt1_runner nologin in role gis_owner",
        "grant create on database gis to gis_owner",
        "alter publication catalogue_feed owner to gis_owner",
    )
    dsn = with_options(catalogue, "-c role=opt1_runner")
    try:
        with connect(dsn, name="install") as conn:
            for name in ("10_core.sql", "20_swap.sql"):
                conn.execute((SQL / "support" / name).read_bytes())
        yield dsn
    finally:
        catalogue = servers.shadow.fresh_catalogue()
        do(catalogue, "drop role opt1_runner")


def test_ownership_is_enough(runner: str, catalogue: str) -> None:
    """A member of gis_owner without further rights applies, verifies and rolls back, and editors write meanwhile."""
    before = picture(catalogue)
    run(runner, APPLY)
    run(runner, VERIFY)
    with connect(catalogue, name="editor") as editor:
        editor.execute("set role gis_editor")
        editor.execute("update catalogue.geometrias set data_referencia = '2030-01-01' where id = 3")
        with pytest.raises(psycopg.errors.UniqueViolation):
            editor.execute(INSERT.format(id=3, day="2017-01-01").encode())
        for leaf in ("geometrias_2020", "geometrias_ids", "geometrias_default"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                editor.execute(f"select from catalogue.{leaf}".encode())
    run(runner, ROLLBACK)
    assert_same(before, catalogue, ignore=(SEQUENCE_POSITIONS,), rows=False)
    assert do(catalogue, "select data_referencia::text from catalogue.geometrias where id = 3") == [("2030-01-01",)]


def test_a_database_that_defaults_to_repeatable_read_loses_no_write(servers: Any, catalogue: str) -> None:
    """The scripts read what is committed when they hold the lock, whatever the default isolation is."""
    do(catalogue, "alter database gis set default_transaction_isolation = 'repeatable read'")
    run(catalogue, APPLY, SWAP - 1)
    rounds: list[Callable[[], None]] = [lambda: run(catalogue, APPLY), lambda: run(catalogue, ROLLBACK)]
    for number, script in enumerate(rounds):
        with (
            connect(catalogue, name="writer") as writer,
            connect(catalogue, name="eye") as eye,
            ThreadPoolExecutor(1) as pool,
        ):
            writer.execute("begin")
            writer.execute("update catalogue.geometrias set name = %s where id = 8", [f"Tarde {number}"])
            running = pool.submit(script)
            wait_until(
                eye,
                "select from pg_stat_activity a join pg_locks l using (pid) where application_name = 'change' and not l.granted",
                running,
            )
            writer.execute("commit")
            running.result()
        assert do(catalogue, "select name from catalogue.geometrias where id = 8") == [(f"Tarde {number}",)]


def test_traffic_goes_on_without_a_failure_or_a_loss(target_dsn: str) -> None:
    """30 reads and 30 writes a second through apply, verify and rollback."""
    with Traffic(target_dsn, 30, 30) as traffic:
        for path in (APPLY, VERIFY, ROLLBACK, APPLY, ROLLBACK):
            run(target_dsn, path)
        record = traffic.stop()
    assert [(each.kind, each.error) for each in record.failed()] == []
    assert lost_writes(target_dsn, record) == []
    assert record.acknowledged
    assert do(target_dsn, LEFTOVERS) == []
