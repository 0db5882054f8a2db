"""OPT2 keeps every row, right and trigger behind the name while cold rows are packed, and gives the row store back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from comporta.errors import StatementFailed
from comporta.postgres.connection import Connection, connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.proof.fingerprint import SEQUENCE_PROGRESS, diff, take

SQL = Path(__file__).resolve().parents[2] / "sql"
OPT1 = SQL / "apply/OPT1_temporal_partitioning_geometrias.sql"
APPLY = SQL / "apply/OPT2_columnar_storage_gis.sql"
VERIFY = SQL / "verify/OPT2_columnar_storage_gis.sql"
ROLLBACK = SQL / "rollback/ROLLBACK_OPT2_columnar_storage_gis.sql"

DIGEST = "select count(*), sum(hashtextextended(g::text, 0)::numeric) from catalogue.geometrias g"
BY_LEAF = """select tableoid::regclass::text collate "C", count(*), sum(hashtextextended(g::text, 0)::numeric)
             from catalogue.geometrias g group by 1 order by 1"""
COLD = "select id from comporta_opt2_cold.cold where data_referencia < '2020-01-01' order by id"


def run(dsn: str, path: Path, upto: int | None = None) -> None:
    """Run a script, or its first ``upto`` statements as if it were killed there, on a connection of its own."""
    script = Script.read(path)
    with connect(dsn, name="test") as conn:
        run_script(conn, Script(script.path, script.sha256, script.statements[:upto]))


def all_rows(conn: Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Every row of an answer."""
    return conn.execute(query, values).fetchall()  # type: ignore[call-overload,no-any-return]


def one(conn: Connection, query: str, *values: Any) -> Any:
    """The only column of the only row."""
    ((value,),) = all_rows(conn, query, *values)
    return value


def dsn_of(conn: Connection) -> str:
    """Conninfo, password included, to connect as CONN did."""
    return make_conninfo(conn.info.dsn, password=conn.info.password)


@pytest.fixture
def partitioned(catalogue: str) -> str:
    """Conninfo of a fresh catalogue to which OPT1 was applied."""
    run(catalogue, OPT1)
    return catalogue


@pytest.fixture
def packed(partitioned: str) -> Iterator[Connection]:
    """A superuser's connection to a catalogue to which OPT1 and OPT2 were applied."""
    run(partitioned, APPLY)
    with connect(partitioned, name="test") as conn:
        conn.autocommit = True
        yield conn


def test_apply_and_rollback_leave_rows_and_catalogue_as_they_were(partitioned: str) -> None:
    """Rows are byte-equal in the same leaves, and no fact of the catalogue differs."""
    with connect(partitioned, name="test") as conn:
        rows, facts = all_rows(conn, BY_LEAF), take(conn)
        whole = all_rows(conn, DIGEST)
        run(partitioned, APPLY)
        run(partitioned, VERIFY)
        assert all_rows(conn, DIGEST) == whole
        assert one(conn, "select count(*) from comporta_opt2_cold.cold") > 0
        run(partitioned, ROLLBACK)
        assert all_rows(conn, BY_LEAF) == rows
        assert diff(facts, take(conn), ignore=[SEQUENCE_PROGRESS]) == []
        assert one(conn, "select count(*) from comporta.step where change = 'OPT2'") == 0


def test_verify_fails_when_opt2_is_absent(partitioned: str) -> None:
    """Without the change, its verification has something to say."""
    with pytest.raises(StatementFailed, match="OPT2 is not applied"):
        run(partitioned, VERIFY)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("update comporta_opt2_cold.chunk set properties[3] = '{}' where chunk = 1", "do not match their checksum"),
        ("delete from comporta_opt2_cold.cold_geometrias_2016 where place = 1", "do not match their checksum"),
        ("drop trigger comporta_write on catalogue.geometrias", "lacks its INSTEAD OF trigger"),
        ("grant usage on schema comporta_opt2_cold to gis_reader", "open to others"),
        ("drop policy geometrias_public on comporta_opt2_cold.cold", "row security of the cold rows differs"),
    ],
    ids=["changed chunk", "lost row", "lost trigger", "open schema", "lost policy"],
)
def test_verify_names_the_damage(packed: Connection, damage: str, said: str) -> None:
    """Each kind of damage to the cold store is found."""
    packed.execute("set session_replication_role = replica")
    packed.execute(damage)  # type: ignore[call-overload]
    with pytest.raises(StatementFailed, match=said):
        run(dsn_of(packed), VERIFY)


def test_apply_refuses_a_table_that_is_not_partitioned(catalogue: str) -> None:
    """OPT1 comes first; nothing is changed without it."""
    with connect(catalogue, name="test") as conn:
        facts = take(conn)
        with pytest.raises(StatementFailed, match="apply OPT1 first"):
            run(catalogue, APPLY)
        assert diff(facts, take(conn)) == []


def test_each_role_sees_the_same_rows_as_before(partitioned: str) -> None:
    """Policies decide for hot and cold rows alike, in the view, in the function on its row type and in both RPCs."""
    with psycopg.connect(partitioned, autocommit=True) as conn:
        before = {}
        for role in ("gis_reader", "gis_editor"):
            conn.execute(f"set role {role}")  # type: ignore[call-overload]
            before[role] = conn.execute(DIGEST).fetchall()
            conn.execute("reset role")
        assert before["gis_reader"] != before["gis_editor"]
        run(partitioned, APPLY)
        for role, rows in before.items():
            conn.execute(f"set role {role}")  # type: ignore[call-overload]
            assert conn.execute(DIGEST).fetchall() == rows
            assert (
                all_rows(conn, "select sum(geometrias) from catalogue.rpc_geometrias_resumo(null, null)")[0][0]
                == rows[0][0]
            )
            historico = DIGEST.replace(
                "catalogue.geometrias g", "catalogue.rpc_geometrias_historico(null, null, null) g"
            )
            assert conn.execute(historico).fetchall() == rows
            assert one(conn, "select count(catalogue.label(g)) from catalogue.geometrias g") == rows[0][0]
            conn.execute("reset role")


@pytest.mark.parametrize(
    "attempt",
    [
        "select * from comporta_opt2_cold.chunk",
        "select * from comporta_opt2_cold.cold",
        "select comporta_opt2_cold.cold_properties(1, 1::smallint)",
        "select comporta_opt2.thaw(1)",
        "update catalogue.geometrias set name = 'x' where id = 1",
    ],
)
def test_a_reader_finds_no_way_past_the_policies(packed: Connection, attempt: str) -> None:
    """Arrays cannot carry policies: nobody but the owner reaches them."""
    packed.execute("set role gis_reader")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        packed.execute(attempt)  # type: ignore[call-overload]


def test_historico_answers_as_reading_every_row_does(packed: Connection) -> None:
    """Skipping chunks by box and time loses no row."""
    boxes = all_rows(packed, "select st_expand(geom, 1) from catalogue.geometrias order by id limit 20")
    for (box,), (since, upto) in itertools.product(
        boxes, [("2015-03-01", "2017-02-01"), ("2019-06-01", "2022-01-01"), (None, None)]
    ):
        asked = (box, since, upto)
        found = all_rows(packed, "select id from catalogue.rpc_geometrias_historico(%s, %s, %s) order by id", *asked)
        plain = all_rows(
            packed,
            """select id from catalogue.geometrias where geom && %s
               and data_referencia >= coalesce(%s::date, '-infinity')
               and data_referencia < coalesce(%s::date, 'infinity') order by id""",
            *asked,
        )
        assert found == plain


def test_an_update_of_a_cold_row_is_an_ordinary_update(packed: Connection) -> None:
    """It returns what triggers made of the row, is recorded once, and thawing records nothing."""
    first, second = (row[0] for row in all_rows(packed, COLD + " limit 2"))
    packed.execute("truncate catalogue.edits")
    before = one(packed, "select properties from catalogue.geometrias where id = %s", first)
    packed.execute("set role gis_editor")
    ((name, touched),) = all_rows(
        packed,
        """update catalogue.geometrias set name = 'thawed' where id = %s
           returning name, updated_at > now() - interval '1 minute'""",
        first,
    )
    assert (name, touched) == ("thawed", True)
    assert packed.execute("update catalogue.geometrias set name = name where id = %s", [second]).rowcount == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        packed.execute("update catalogue.geometrias set created_at = now() where id = %s", [second])
    packed.execute("reset role")
    assert one(packed, "select properties from catalogue.geometrias where id = %s", first) == before
    edits = all_rows(packed, "select geometria_id, action from catalogue.edits order by id")
    assert edits == [(first, "update"), (second, "update")]
    run(dsn_of(packed), VERIFY)


def test_a_delete_of_a_cold_row_cascades_and_is_recorded(packed: Connection) -> None:
    """Annotations go with it, an inspection still forbids it, the registry forgets it."""
    doomed = one(
        packed,
        """select min(c.id) from comporta_opt2_cold.cold c join catalogue.annotations a on a.geometria_id = c.id
           where not exists (select from catalogue.inspections i where i.geometria_id = c.id)""",
    )
    kept = one(
        packed, "select min(c.id) from comporta_opt2_cold.cold c join catalogue.inspections i on i.geometria_id = c.id"
    )
    packed.execute("set role gis_editor")
    assert packed.execute("delete from catalogue.geometrias where id = %s", [doomed]).rowcount == 1
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        packed.execute("delete from catalogue.geometrias where id = %s", [kept])
    packed.execute("reset role")
    assert one(packed, "select count(*) from catalogue.annotations where geometria_id = %s", doomed) == 0
    assert one(packed, "select count(*) from catalogue.geometrias_ids where id = %s", doomed) == 0
    assert one(packed, "select count(*) from catalogue.geometrias where id = %s", kept) == 1
    assert all_rows(packed, "select action from catalogue.edits where geometria_id = %s", doomed) == [("delete",)]


def test_an_insert_gets_its_identity_defaults_and_leaf(packed: Connection) -> None:
    """A late row of a cold year lands in the leaf of that year, with id and defaults given by the table."""
    packed.execute("set role gis_editor")
    ((id_, properties, created),) = all_rows(
        packed,
        """insert into catalogue.geometrias (layer, name, geom, data_referencia)
           select layer, 'late', geom, '2016-07-01' from catalogue.geometrias limit 1
           returning id, properties, created_at = now()""",
    )
    packed.execute("reset role")
    assert (properties, created) == ({}, True)
    assert (
        one(packed, "select tableoid::regclass::text from comporta_opt2.geometrias where id = %s", id_)
        == "catalogue.geometrias_2016"
    )
    with pytest.raises(psycopg.errors.NotNullViolation):
        packed.execute(
            """insert into catalogue.geometrias (layer, name, geom, data_referencia, properties)
               select layer, 'late', geom, '2016-07-01', null from catalogue.geometrias limit 1"""
        )
    with pytest.raises(psycopg.errors.UniqueViolation):
        packed.execute(
            f"""insert into catalogue.geometrias (id, layer, name, geom, data_referencia)
                select ({COLD} limit 1), layer, 'twice', geom, '2016-07-01' from catalogue.geometrias limit 1"""
        )


def test_a_concurrent_change_of_the_same_column_is_never_overwritten(packed: Connection) -> None:
    """The second writer waits and is told to try again; a change of another column passes."""
    row = one(packed, COLD + " limit 1")
    with psycopg.connect(dsn_of(packed)) as other, psycopg.connect(dsn_of(packed), autocommit=True) as reader:
        other.execute("set transaction isolation level repeatable read")
        other.execute("select count(*) from catalogue.layers")
        packed.execute("update catalogue.geometrias set name = 'first' where id = %s", [row])
        with pytest.raises(psycopg.errors.SerializationFailure):
            other.execute("update catalogue.geometrias set name = name || '!' where id = %s", [row])
        other.rollback()
        assert one(reader, "select name from catalogue.geometrias where id = %s", row) == "first"


def test_a_cascading_foreign_key_reaches_cold_rows(packed: Connection) -> None:
    """A layer's new code arrives in its cold rows, through the table's own triggers."""
    code, rows = all_rows(packed, "select layer, count(*) from comporta_opt2_cold.cold group by 1 order by 2 limit 1")[
        0
    ]
    total = one(packed, "select count(*) from catalogue.geometrias where layer = %s", code)
    packed.execute("update catalogue.layers set code = 'renamed' where code = %s", [code])
    assert rows > 0
    assert one(packed, "select count(*) from catalogue.geometrias where layer = 'renamed'") == total
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        packed.execute("delete from catalogue.layers where code = (select layer from comporta_opt2_cold.cold limit 1)")
    run(dsn_of(packed), VERIFY)


def test_what_was_written_after_apply_survives_the_rollback(packed: Connection) -> None:
    """Thawed, deleted, re-dated and late rows come back in the right leaves, as they were left."""
    ids = [row[0] for row in all_rows(packed, COLD)]
    deletable = one(
        packed,
        """select min(c.id) from comporta_opt2_cold.cold c
           where not exists (select from catalogue.inspections i where i.geometria_id = c.id)""",
    )
    packed.execute("set role gis_editor")
    packed.execute("update catalogue.geometrias set name = 'changed' where id = any (%s)", [ids[10:40]])
    packed.execute("update catalogue.geometrias set data_referencia = '2015-12-31' where id = any (%s)", [ids[50:60]])
    packed.execute("update catalogue.geometrias set data_referencia = '2027-12-31' where id = any (%s)", [ids[60:70]])
    packed.execute("delete from catalogue.geometrias where id = %s", [deletable])
    packed.execute(
        """insert into catalogue.geometrias (layer, name, geom, data_referencia)
           select layer, 'late', geom, date '2015-01-01' + id::integer % 2000 from catalogue.geometrias
           order by id limit 50"""
    )
    packed.execute("reset role")
    rows, edits = all_rows(packed, DIGEST), one(packed, "select count(*) from catalogue.edits")
    run(dsn_of(packed), ROLLBACK)
    assert all_rows(packed, DIGEST) == rows
    assert one(packed, "select count(*) from catalogue.edits") == edits
    assert one(packed, "select count(*) from only catalogue.geometrias_default") == 0
    assert (
        one(
            packed,
            """select count(*) from catalogue.geometrias g
               full join catalogue.geometrias_ids i using (id, data_referencia)
               where g.id is null or i.id is null""",
        )
        == 0
    )


def test_subscribers_see_nothing_when_rows_turn_cold_and_back(partitioned: str) -> None:
    """Packing and the way back are invisible in the stream of the publication, where an ordinary update shows."""
    counted = """select count(*) from pg_logical_slot_peek_binary_changes(
                     'opt2_feed', null, null, 'proto_version', '1', 'publication_names', 'catalogue_feed')
                 where get_byte(data, 0) in (ascii('I'), ascii('U'), ascii('D'), ascii('T'))"""
    with psycopg.connect(partitioned, autocommit=True) as conn:
        hot = one(conn, "select min(id) from catalogue.geometrias where data_referencia >= '2024-01-01'")
        conn.execute("select pg_create_logical_replication_slot('opt2_feed', 'pgoutput')")
        try:
            # Decoding reads what is flushed: the update that shows also brings everything before it to the disk.
            conn.execute("set synchronous_commit = on")
            for script, seen in ((APPLY, 1), (ROLLBACK, 2)):
                run(partitioned, script)
                conn.execute("update catalogue.geometrias set name = 'seen' where id = %s", [hot])
                assert one(conn, counted) == seen
        finally:
            conn.execute("select pg_drop_replication_slot('opt2_feed')")


@pytest.mark.parametrize("script", [APPLY, ROLLBACK], ids=["apply", "rollback"])
def test_a_script_killed_between_statements_continues(partitioned: str, script: Path) -> None:
    """Cut off after any of its statements, and run again, it converges."""
    with connect(partitioned, name="test") as conn:
        facts, rows = take(conn), all_rows(conn, BY_LEAF)
        if script is ROLLBACK:
            run(partitioned, APPLY)
        for upto in range(1, len(Script.read(script).statements)):
            run(partitioned, script, upto)
        run(partitioned, script)
        if script is APPLY:
            run(partitioned, VERIFY)
            run(partitioned, ROLLBACK)
        assert all_rows(conn, BY_LEAF) == rows
        assert diff(facts, take(conn), ignore=[SEQUENCE_PROGRESS]) == []


@pytest.mark.parametrize("state", ["logged", "copying", "copied", "packed", "cold", "verified"])
def test_a_half_packed_catalogue_goes_either_way(partitioned: str, state: str) -> None:
    """Killed inside the packing of a leaf, apply continues and rollback leaves nothing."""
    with connect(partitioned, name="test") as conn:
        conn.autocommit = True
        facts, rows = take(conn), all_rows(conn, BY_LEAF)
        stop_at(conn, partitioned, state)
        run(partitioned, ROLLBACK)
        assert all_rows(conn, BY_LEAF) == rows
        assert diff(facts, take(conn), ignore=[SEQUENCE_PROGRESS]) == []
        stop_at(conn, partitioned, state)
        run(partitioned, APPLY)
        run(partitioned, VERIFY)


def stop_at(conn: Connection, dsn: str, state: str) -> None:
    """Run the apply script until the leaf of 2017 reaches ``state``, where it fails as if it were killed."""
    run(dsn, APPLY, 10)
    conn.execute(
        """create or replace function comporta_opt2_cold.stop() returns trigger language plpgsql
           as $$ begin raise exception 'stopped after %', old.state; end $$"""
    )
    conn.execute(
        f"""create or replace trigger stop before update of state, next_row on comporta_opt2_cold.leaf for each row
            when (old.name = 'geometrias_2017' and old.state = '{state}') execute function comporta_opt2_cold.stop()"""
    )
    if state == "verified":
        run(dsn, APPLY, 11)
    else:
        with pytest.raises(StatementFailed, match="stopped after"):
            run(dsn, APPLY, 11)
    conn.execute("drop trigger stop on comporta_opt2_cold.leaf")
    conn.execute("drop function comporta_opt2_cold.stop()")


def test_rolls_back_beneath_the_changes_that_came_after(partitioned: str) -> None:
    """OPT3 and OPT4 stay in force, and what is left is what they would have made without OPT2."""
    later = [SQL / "apply/OPT3_indexed_views_rpc_search.sql", SQL / "apply/OPT4_auto_partition_creation_2029_plus.sql"]
    with connect(partitioned, name="test") as conn:
        for script in (APPLY, *later):
            run(partitioned, script)
        conn.execute(
            """update catalogue.geometrias set name = 'found again'
               where id = (select min(id) from comporta_opt2_cold.cold)"""
        )
        run(partitioned, ROLLBACK)
        for script in later:
            run(partitioned, SQL / "verify" / script.name)
        assert one(conn, "select count(*) from catalogue.rpc_search('found again')") == 1
        assert one(conn, "select count(*) from pg_namespace where nspname like 'comporta_opt2_cold'") == 0
