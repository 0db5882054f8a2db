"""OPT3 answers as reading every row does, whatever is written meanwhile, and leaves nothing behind."""

from __future__ import annotations

import random
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comporta.errors import StatementFailed
from comporta.postgres.connection import Connection, connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script

SQL = Path(__file__).resolve().parents[2] / "sql"
APPLY = SQL / "apply/OPT3_indexed_views_rpc_search.sql"
VERIFY = SQL / "verify/OPT3_indexed_views_rpc_search.sql"
ROLLBACK = SQL / "rollback/ROLLBACK_OPT3_indexed_views_rpc_search.sql"

SEARCH = "select array(select r::text from catalogue.rpc_search(%(q)s, %(box)s, %(since)s, %(upto)s, %(n)s) r)"
# The body of the former function, with its setting: the same statement answers both ways in one snapshot.
BRUTE = """
    select array(select f::text from (
        select g.id, g.layer, g.name, g.data_referencia,
               public.similarity(lower(public.unaccent(g.name)), lower(public.unaccent(%(q)s))) as similarity
        from catalogue.geometrias g
        where lower(public.unaccent(g.name)) operator(public.%%) lower(public.unaccent(%(q)s))
          and (%(box)s::public.geometry is null or g.geom operator(public.&&) %(box)s::public.geometry)
          and (%(since)s::date is null or g.data_referencia >= %(since)s)
          and (%(upto)s::date is null or g.data_referencia < %(upto)s)
        order by 5 desc, 1
        limit %(n)s) f)"""
BOTH = f"select ({SEARCH}), ({BRUTE})"
BOX = "SRID=4326;POLYGON((-75 -35, -30 -35, -30 6, -75 6, -75 -35))"


def run(dsn: str, path: Path, upto: int | None = None) -> None:
    """Run a script, or its first ``upto`` statements as if it were killed there, on a connection of its own."""
    script = Script.read(path)
    with connect(dsn, name="test") as conn:
        run_script(conn, Script(script.path, script.sha256, script.statements[:upto]))


def arguments(query: str | None, n: int | None = 20, **more: Any) -> dict[str, Any]:
    return {"q": query, "n": n, "box": None, "since": None, "upto": None, **more}


def disagreements(conn: Connection, questions: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Any, Any]]:
    """The questions that rpc_search answers otherwise than reading every row does, as the role of ``conn``."""
    conn.execute("set pg_trgm.similarity_threshold = 0.3")
    found = []
    for question in questions:
        answer = conn.execute(BOTH, question).fetchone()
        assert answer is not None
        if answer[0] != answer[1]:
            found.append((question, *answer))
    return found


def questions(conn: Connection, dice: random.Random, count: int) -> list[dict[str, Any]]:
    """Names that are there, parts of them, and misspellings, with boxes, windows and limits of all kinds."""
    names = [row[0] for row in conn.execute("select name from catalogue.geometrias order by id").fetchall()]
    made = []
    for _ in range(count):
        name = dice.choice(names)
        query = dice.choice(
            [name, name.upper(), name[: dice.randint(1, len(name))], name[::-1], name.replace("a", "á", 1)]
        )
        made.append(
            arguments(
                query,
                dice.choice([0, 1, 5, 20, 200, None]),
                box=dice.choice([None, BOX]),
                since=dice.choice([None, "2020-01-01"]),
                upto=dice.choice([None, "2024-06-30"]),
            )
        )
    return made


def change(conn: Connection, dice: random.Random) -> None:
    """One write of a kind that can alter an answer, or of one that can not."""
    row = conn.execute("select id, name from catalogue.geometrias order by random() limit 1").fetchone()
    assert row is not None
    ident, name = row
    kind = dice.randrange(7)
    if kind == 0:
        conn.execute(
            "update catalogue.geometrias set name = %s where id = %s", [f"{name[:9]} {dice.randint(1, 99)}", ident]
        )
    elif kind == 1:
        conn.execute(
            "update catalogue.geometrias set geom = st_translate(geom, %s, 3) where id = %s",
            [dice.random() * 20, ident],
        )
    elif kind == 2:
        conn.execute(
            "update catalogue.geometrias set data_referencia = date '2015-01-01' + %s where id = %s",
            [dice.randrange(5000), ident],
        )
    elif kind == 3:
        conn.execute("update catalogue.geometrias set restricted = not restricted where id = %s", [ident])
    elif kind == 4:
        conn.execute(
            "delete from catalogue.geometrias g where id = %s and not exists"
            " (select from catalogue.inspections i where i.geometria_id = g.id)",
            [ident],
        )
    elif kind == 5:
        conn.execute(
            "update catalogue.geometrias g set id = id + 1000000 where id = %s and not exists"
            " (select from catalogue.inspections i where i.geometria_id = g.id) and not exists"
            " (select from catalogue.annotations a where a.geometria_id = g.id)",
            [ident],
        )
    else:
        conn.execute(
            "insert into catalogue.geometrias (layer, name, geom, data_referencia, restricted)"
            " select layer, name || ' novo', geom, data_referencia, %s from catalogue.geometrias where id = %s",
            [dice.random() < 0.3, ident],
        )


def schema(dsn: str) -> str:
    """The schema as pg_dump prints it, without its random key, and what pg_dump does not print."""
    dump = subprocess.run(
        ["pg_dump", "--schema-only", "--exclude-schema=comporta", dsn], check=True, capture_output=True, text=True
    ).stdout
    lines = [line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict", "--"))]
    with connect(dsn, name="test") as conn:
        more = conn.execute("""
            select 'function ' || pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') || p.oid
            from pg_proc p where p.pronamespace = 'catalogue'::regnamespace and p.prokind = 'f'
            union all
            select 'trigger ' || pg_get_triggerdef(t.oid) || t.tgenabled::text from pg_trigger t where not t.tgisinternal
            union all
            select 'step ' || change || step from comporta.step
            order by 1""").fetchall()
    return "\n".join([*lines, *(row[0] for row in more)])


@pytest.fixture
def opt3(catalogue: str) -> str:
    """The demo catalogue with OPT3 applied."""
    run(catalogue, APPLY)
    return catalogue


def as_role(dsn: str, role: str | None) -> Connection:
    conn = connect(dsn, name=f"test as {role}")
    if role:
        conn.execute(f"set role {role}".encode())
    return conn


ROLES = pytest.mark.parametrize("role", [None, "gis_owner", "gis_reader", "gis_editor"], ids=str)


@ROLES
def test_answers_are_those_of_reading_every_row_before_and_after_a_refresh(opt3: str, role: str | None) -> None:
    """Content and order are equal for every caller, with changes pending and with none."""
    dice = random.Random(20_300)  # noqa: S311 - a seeded test, not a secret
    with connect(opt3, name="test") as writer, as_role(opt3, role) as caller:
        asked = questions(writer, dice, 40)
        assert disagreements(caller, asked) == []
        for _ in range(150):
            change(writer, dice)
        asked += questions(writer, dice, 20)
        assert disagreements(caller, asked) == []
        writer.execute("call catalogue.refresh_search()")
        assert disagreements(caller, asked) == []
        assert writer.execute("select count(*) from catalogue.search_delta").fetchone() == (0,)


OPT1 = "OPT1_temporal_partitioning_geometrias.sql"
OPT2 = "OPT2_columnar_storage_gis.sql"


@pytest.mark.parametrize("beneath", [[OPT1], [OPT1, OPT2]], ids=["OPT1", "OPT1 and OPT2"])
@pytest.mark.parametrize("first", ["beneath", "opt3"])
def test_answers_hold_while_other_changes_come_and_go_beneath(catalogue: str, beneath: list[str], first: str) -> None:
    """Partitioned, packed, or back in one table: the triggers are where the rows are, and no answer is stale."""
    dice = random.Random(20_301)  # noqa: S311 - a seeded test, not a secret
    if first == "opt3":
        run(catalogue, APPLY)
    for lower in beneath:
        run(catalogue, SQL / "apply" / lower)
    run(catalogue, APPLY)
    with connect(catalogue, name="test") as writer, as_role(catalogue, "gis_reader") as caller:
        for script in [None, *reversed(beneath)]:
            if script is not None:
                run(catalogue, SQL / "rollback" / f"ROLLBACK_{script}")
            for refresh in (False, True):
                for _ in range(40):
                    change(writer, dice)
                if refresh:
                    writer.execute("call catalogue.refresh_search()")
                asked = questions(writer, dice, 10)
                assert disagreements(caller, asked) == []
                assert disagreements(writer, asked) == []
            run(catalogue, VERIFY)
    run(catalogue, ROLLBACK)


def test_answers_hold_while_writers_and_refreshes_run_side_by_side(opt3: str) -> None:
    """No interleaving of writes, refreshes and searches makes an answer stale."""
    stop = threading.Event()
    failures: list[object] = []

    def write(seed: int) -> int:
        dice = random.Random(seed)  # noqa: S311 - a seeded test, not a secret
        done = 0
        with connect(opt3, name="writer") as conn:
            while not stop.is_set():
                try:
                    change(conn, dice)
                    done += 1
                except psycopg.errors.UniqueViolation:
                    continue
        return done

    def search(seed: int, role: str) -> None:
        dice = random.Random(seed)  # noqa: S311 - a seeded test, not a secret
        with connect(opt3, name="names") as conn, as_role(opt3, role) as caller:
            for _ in range(6):
                failures.extend(disagreements(caller, questions(conn, dice, 10)))

    with ThreadPoolExecutor(5) as pool:
        writers = [pool.submit(write, seed) for seed in (1, 2)]
        searches = [pool.submit(search, 3, "gis_reader"), pool.submit(search, 4, "gis_editor")]
        try:
            with connect(opt3, name="refresher") as conn:
                refreshes = 0
                while refreshes < 3 or not all(task.done() for task in searches):
                    conn.execute("call catalogue.refresh_search()")
                    refreshes += 1
        finally:
            stop.set()
        assert all(task.result() is None for task in searches)
        assert all(task.result() > 0 for task in writers)
    assert failures == []
    run(opt3, VERIFY)


def test_a_change_committed_after_the_snapshot_of_a_refresh_stays_in_the_delta(opt3: str) -> None:
    """The refresh deletes only what it has seen."""
    with (
        connect(opt3, name="holder") as holder,
        connect(opt3, name="writer") as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        writer.execute("update catalogue.geometrias set name = 'Antes da foto' where id = 1")
        with holder.transaction():
            # The refresh has its snapshot when it waits for this row.
            holder.execute("select from catalogue.search_delta for update")
            refresh = pool.submit(call, opt3, "call catalogue.refresh_search()")
            wait_until(
                writer,
                "select true from pg_stat_activity where application_name = 'called' and wait_event_type = 'Lock'",
            )
            writer.execute("update catalogue.geometrias set name = 'Depois da foto' where id = 2")
        refresh.result()
        assert writer.execute("select array_agg(id) from catalogue.search_delta").fetchone() == ([2],)
        assert disagreements(writer, [arguments("Antes da foto"), arguments("Depois da foto")]) == []
        assert writer.execute(
            "select array_agg(id) from catalogue.rpc_search('Depois da foto', max_rows => 1)"
        ).fetchone() == ([2],)


def call(dsn: str, statement: str) -> None:
    with connect(dsn, name="called") as conn:
        conn.execute(statement.encode())


def wait_until(conn: Connection, question: str) -> None:
    for _ in range(2_000):
        if conn.execute(question.encode()).fetchone() is not None:
            return
        conn.execute("select pg_sleep(0.01)")
    raise AssertionError(f"never true: {question}")


def test_a_second_refresh_is_skipped_while_one_runs(opt3: str) -> None:
    """Two refreshes never queue; the second says so and ends."""
    with connect(opt3, name="first") as first, connect(opt3, name="second") as second:
        first.execute("select pg_advisory_lock(hashtext('comporta'), hashtext('refresh_search'))")
        outcome = second.execute("call catalogue.refresh_search(true, null)").fetchone()
        assert outcome is not None
        assert outcome[0]["state"] == "skipped"
        first.execute("select pg_advisory_unlock(hashtext('comporta'), hashtext('refresh_search'))")
        outcome = second.execute("call catalogue.refresh_search(true, null)").fetchone()
        assert outcome is not None
        assert outcome[0]["state"] == "refreshed"


def test_a_failed_refresh_loses_nothing_and_frees_its_lock(opt3: str) -> None:
    """After a cancelled refresh the changes are still read, and the same session may refresh again."""
    with connect(opt3, name="test") as conn, connect(opt3, name="holder") as holder:
        conn.execute("update catalogue.geometrias set name = 'Sobrevive' where id = 1")
        with holder.transaction():
            holder.execute("select from catalogue.search_delta for update")
            conn.execute("set statement_timeout = '100ms'")
            with pytest.raises(psycopg.errors.QueryCanceled, match=r"refresh of catalogue\.search_names failed"):
                conn.execute("call catalogue.refresh_search()")
            conn.execute("set statement_timeout = 0")
        assert conn.execute("select count(*) from catalogue.search_delta").fetchone() == (1,)
        assert disagreements(conn, [arguments("Sobrevive")]) == []
        conn.execute("call catalogue.refresh_search()")
        assert conn.execute("select count(*) from catalogue.search_delta").fetchone() == (0,)


@pytest.mark.parametrize(
    "question",
    [
        arguments(""),
        arguments(None),
        arguments("  "),
        arguments("!?"),
        arguments("a"),
        arguments("São", 0),
        arguments("São", None),
        arguments("São", 2**31 - 1),
        arguments("São", since="2030-01-01"),
        arguments("São", box="SRID=4326;POLYGON EMPTY"),
        arguments("São", box="SRID=4326;POINT(-47 -15)"),
    ],
    ids=str,
)
def test_odd_arguments_get_the_former_answer(opt3: str, question: dict[str, Any]) -> None:
    """Empty, missing and boundless arguments mean what they meant."""
    with as_role(opt3, "gis_reader") as reader:
        assert disagreements(reader, [question]) == []


def test_a_negative_limit_is_the_same_error(opt3: str) -> None:
    """Errors are part of the contract too."""
    with connect(opt3, name="test") as conn, pytest.raises(psycopg.errors.InvalidRowCountInLimitClause):
        conn.execute("select * from catalogue.rpc_search('x', max_rows => -1)")


def test_uncommitted_changes_of_the_caller_are_seen_and_those_of_others_are_not(opt3: str) -> None:
    """A search reads one snapshot, as before."""
    question = arguments("Cidade Invisível", 5)
    with connect(opt3, name="one") as one, connect(opt3, name="two") as two, one.transaction():
        one.execute("update catalogue.geometrias set name = 'Cidade Invisível' where id = 7")
        assert one.execute(
            "select array_agg(id) from catalogue.rpc_search('Cidade Invisível', max_rows => 1)"
        ).fetchone() == ([7],)
        assert disagreements(one, [question]) == []
        assert disagreements(two, [question]) == []


def test_hidden_rows_neither_show_nor_crowd_out_visible_ones(opt3: str) -> None:
    """A reader gets the best visible rows although hundreds of better ones are hidden."""
    with connect(opt3, name="test") as conn, as_role(opt3, "gis_reader") as reader:
        conn.execute("update catalogue.geometrias set name = 'Segredo Guardado', restricted = true where id <= 900")
        conn.execute(
            "update catalogue.geometrias set name = 'Segredo Guardados', restricted = false where id between 901 and 905"
        )
        conn.execute("call catalogue.refresh_search()")
        found = reader.execute(
            "select array_agg(id order by id) from catalogue.rpc_search('Segredo Guardado', max_rows => 5)"
        )
        assert found.fetchone() == ([901, 902, 903, 904, 905],)
        assert disagreements(reader, [arguments("Segredo Guardado", n) for n in (1, 5, 50, None)]) == []


FORGED = """
do $do$
begin
    execute $q$select catalogue.search_candidates('x', null, null, null, 0, 9) "
PL/pgSQL function catalogue.search_page(text,public.geometry,date,date,integer) line 1 at assignment"$q$;
end
$do$"""


@pytest.mark.parametrize(
    "attempt",
    [
        "select * from catalogue.search_candidates('x', null, null, null, 0, 9)",
        "do $$ declare r record; begin r := catalogue.search_candidates('x', null, null, null, 0, 9); end $$",
        FORGED,
        "select * from catalogue.search_names",
        "select * from catalogue.search_delta",
        "select * from catalogue.search_source()",
        "call catalogue.refresh_search()",
    ],
    ids=["query", "assignment", "forged context", "view", "changes", "source", "refresh"],
)
def test_a_reader_cannot_reach_the_ids_of_hidden_rows(opt3: str, attempt: str) -> None:
    """What row level security hides stays hidden, by whatever way it is asked for."""
    with as_role(opt3, "gis_reader") as reader, pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(attempt.encode())


def test_a_role_without_column_privileges_gets_the_former_error(opt3: str) -> None:
    """rpc_search still runs as its caller."""
    with connect(opt3, name="test") as conn:
        conn.execute("revoke select on catalogue.geometrias from gis_reader")
    with as_role(opt3, "gis_reader") as reader, pytest.raises(psycopg.errors.InsufficientPrivilege, match="geometrias"):
        reader.execute("select * from catalogue.rpc_search('nothing like it')")


def test_rows_that_answer_alike_are_not_logged(opt3: str) -> None:
    """The triggers pass over changes that no search can see, and over deletions, which the join drops."""
    with connect(opt3, name="test") as conn:
        conn.execute(
            "update catalogue.geometrias set properties = '{}', restricted = true, name = name, geom = geom where id < 50"
        )
        conn.execute(
            "delete from catalogue.geometrias g where id < 50 and not exists"
            " (select from catalogue.inspections i where i.geometria_id = g.id)"
        )
        assert conn.execute("select count(*) from catalogue.search_delta").fetchone() == (0,)


def test_apply_and_rollback_twice_leave_the_schema_as_it_was(catalogue: str) -> None:
    """Definition, settings, grants and OID of rpc_search, triggers and all else are those of before."""
    before = schema(catalogue)
    for _ in range(2):
        run(catalogue, APPLY)
        run(catalogue, APPLY)
        run(catalogue, VERIFY)
        with connect(catalogue, name="writer") as conn:
            conn.execute("update catalogue.geometrias set name = 'Fica' where id = 3")
        run(catalogue, ROLLBACK)
        run(catalogue, ROLLBACK)
        assert schema(catalogue) == before
    with connect(catalogue, name="test") as conn:
        assert conn.execute("select name from catalogue.geometrias where id = 3").fetchone() == ("Fica",)


APPLY_STATEMENTS = len(Script.read(APPLY).statements)
ROLLBACK_STATEMENTS = len(Script.read(ROLLBACK).statements)


@pytest.mark.parametrize("part", range(4))
def test_apply_converges_after_a_kill_at_any_statement(catalogue: str, part: int) -> None:
    """Killed anywhere, run again: verified. Killed anywhere, rolled back: as before."""
    before = schema(catalogue)
    for upto in range(1 + part, APPLY_STATEMENTS, 4):
        run(catalogue, APPLY, upto)
        with connect(catalogue, name="writer") as conn:
            conn.execute("update catalogue.geometrias set name = %s where id = 5", [f"Corte {upto}"])
        run(catalogue, APPLY)
        with connect(catalogue, name="test") as conn:
            assert disagreements(conn, [arguments(f"Corte {upto}", 3)]) == []
        run(catalogue, ROLLBACK)
        run(catalogue, APPLY, upto)
        run(catalogue, ROLLBACK)
        assert schema(catalogue) == before


@pytest.mark.parametrize("upto", range(1, ROLLBACK_STATEMENTS))
def test_rollback_converges_after_a_kill_at_any_statement(opt3: str, upto: int) -> None:
    """A rollback that was cut continues, or the change is applied again: both are whole, and no write is overlooked."""
    run(opt3, ROLLBACK, upto)
    with connect(opt3, name="writer") as conn:
        conn.execute("update catalogue.geometrias set name = 'Entre os dois' where id = 5")
    run(opt3, APPLY)
    with connect(opt3, name="test") as conn:
        assert disagreements(conn, [arguments("Entre os dois", 3)]) == []
    run(opt3, ROLLBACK, upto)
    run(opt3, ROLLBACK)
    with connect(opt3, name="test") as conn:
        left = conn.execute(
            "select count(*) from pg_class where relnamespace = 'catalogue'::regnamespace and relname like 'search%'"
        ).fetchone()
        body = conn.execute(
            "select prosrc like '%%unaccent(g.name)%%' from pg_proc where proname = 'rpc_search'"
        ).fetchone()
        assert (left, body) == ((0,), (True,))
    with pytest.raises(StatementFailed, match="OPT3 is not in place"):
        run(opt3, VERIFY)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("drop trigger geometrias_search_update on catalogue.geometrias", "two enabled triggers"),
        ("alter table catalogue.geometrias disable trigger geometrias_search_insert", "two enabled triggers"),
        ("drop index catalogue.search_names_trigram_idx", "lacks gin"),
        ("drop index catalogue.search_names_id_key", "lacks btree unique"),
        ("grant select on catalogue.search_names to gis_reader", "only the owner may read"),
        ("refresh materialized view catalogue.search_names with no data", "never filled"),
        ("drop function catalogue.search_page", "expected catalogue.search_page"),
        (
            "update catalogue.geometrias set name = 'Outra coisa qualquer' where id = (select min(id)"
            " from catalogue.geometrias);"
            " delete from catalogue.search_delta",
            "answers wrongly",
        ),
    ],
    ids=["no trigger", "disabled", "no gin", "no unique", "open view", "not filled", "no page", "stale"],
)
def test_verify_names_what_is_damaged(opt3: str, damage: str, complaint: str) -> None:
    """Half of OPT3 does not pass for OPT3."""
    with connect(opt3, name="test") as conn:
        conn.execute(damage.encode())
    with pytest.raises(StatementFailed, match=complaint):
        run(opt3, VERIFY)


def test_a_role_granted_later_is_told_how_to_search(opt3: str) -> None:
    """Verify names a role that may call rpc_search but not its parts; applying again grants them."""
    with connect(opt3, name="test") as conn:
        conn.execute("drop role if exists opt3_later")
        conn.execute("create role opt3_later")
        conn.execute("grant execute on function catalogue.rpc_search to opt3_later")
        try:
            with pytest.raises(StatementFailed, match="opt3_later may call rpc_search"):
                run(opt3, VERIFY)
            run(opt3, APPLY)
            run(opt3, VERIFY)
        finally:
            conn.execute("drop owned by opt3_later")
            conn.execute("drop role opt3_later")


def test_apply_refuses_a_table_whose_owner_is_under_row_level_security(catalogue: str) -> None:
    """A view that cannot hold every row is not made; the catalogue stays as it was."""
    with connect(catalogue, name="test") as conn:
        conn.execute("alter table catalogue.geometrias force row level security")
    before = schema(catalogue)
    with pytest.raises(StatementFailed, match="row level security is forced"):
        run(catalogue, APPLY)
    assert schema(catalogue) == before


def test_a_waiting_writer_does_not_hold_up_readers_while_the_triggers_are_made(catalogue: str) -> None:
    """The lock for the triggers is asked for briefly and again, never queued for long."""
    with (
        connect(catalogue, name="writer") as writer,
        connect(catalogue, name="reader") as reader,
        ThreadPoolExecutor(1) as pool,
    ):
        with writer.transaction():
            writer.execute("update catalogue.geometrias set name = name where id = 1")
            apply = pool.submit(run, catalogue, APPLY)
            wait_until(
                reader, "select true from pg_locks where relation = 'catalogue.geometrias'::regclass and not granted"
            )
            reader.execute("set statement_timeout = '1s'")
            for ident in range(2, 12):
                reader.execute("update catalogue.geometrias set name = name where id = %s", [ident])
            assert not apply.done()
        apply.result()
    run(catalogue, VERIFY)
