"""The checksum of a table sees any changed row, and neither the order of rows nor the way they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from comporta.proof.checksum import ChecksumError, TableChecksum, checksum_tables, diff_checksums

G = "catalogue.geometrias"


@pytest.fixture(scope="module")
def conn(servers: Any) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a catalogue that every test of this module leaves as it was."""
    with psycopg.connect(servers.target.fresh_catalogue(), autocommit=True) as connection:
        yield connection


def of(conn: psycopg.Connection[Any], name: str) -> TableChecksum:
    return checksum_tables(conn, [name])[name]


def test_every_table_of_the_catalogue_is_summed_up_by_default(conn: psycopg.Connection[Any]) -> None:
    """Tables of extensions and of the support schema stay out; rows are counted."""
    sums = checksum_tables(conn)
    assert sorted(sums) == [
        f"catalogue.{name}" for name in ("annotations", "edits", "geometrias", "inspections", "layers")
    ]
    assert sums[G].rows == 5_000
    assert checksum_tables(conn) == sums


@pytest.mark.parametrize(
    "change",
    [
        f"update {G} set name = name || ' ' where id = 7",
        f"update {G} set geom = st_translate(geom, 1e-12, 0) where id = 7",
        f"update {G} set geom = st_multi(st_reverse(st_geometryn(geom, 1))) where id = 7",
        f"update {G} set properties = properties || '{{\"x\": null}}' where id = 7",
        f"update {G} set data_referencia = data_referencia + 1 where id = 7",
        f"update {G} set created_at = created_at + interval '1 microsecond' where id = 7",
        f"update {G} set restricted = not restricted where id = 7",
        f"update {G} set id = id + 4294967296 where id = (select max(id) from {G} where id % 35 <> 0)",
        f"delete from {G} where id = 1",
        f"insert into {G} (layer, name, geom, data_referencia) select layer, name, geom, data_referencia from {G} where id = 1",
        f"with pair as (select a.id as one, b.id as other, a.name as a, b.name as b from {G} a join {G} b on b.id = a.id + 1"
        f" where a.id = 7) update {G} g set name = case when g.id = one then b else a end from pair where g.id in (one, other)",
        f"with pair as (select a.updated_at as a, b.updated_at as b from {G} a, {G} b where a.id = 7 and b.id = 8)"
        f" update {G} g set created_at = case when g.id = 7 then b + interval '1s' else a + interval '2s' end from pair"
        " where g.id in (7, 8)",
    ],
)
def test_one_changed_row_changes_the_digest(conn: psycopg.Connection[Any], change: str) -> None:
    """A value changed, a row lost, added, or a value swapped between two rows: all are seen."""
    before = of(conn, G)
    with conn.transaction(force_rollback=True):
        conn.execute("set local session_replication_role = replica")
        assert conn.execute(change.encode()).rowcount > 0
        assert of(conn, G).digest != before.digest
    assert of(conn, G) == before


def test_values_that_the_servers_own_hash_takes_for_equal_are_told_apart(conn: psycopg.Connection[Any]) -> None:
    """Scale of a numeric, minus zero, big integers that fold alike, null beside the empty text, how jsonb nests, Z and M."""
    pairs = [
        ("numeric", "1.0", "1.00"),
        ("float8", "0", "'-0'"),
        ("int8", "4", "4294967301"),
        ("text", "''", "null"),
        ("jsonb", """'{"a": 1.0}'""", """'{"a": 1.00}'"""),
        ("jsonb", "'[[1], 2]'", "'[[1, 2]]'"),
        ("jsonb", """'{"a": {"b": 1}, "c": 2}'""", """'{"a": {"b": 1, "c": 2}}'"""),
        ("json", """'{"a":1}'""", """'{"a": 1}'"""),
        ("timestamptz", "'2000-01-01 00:00:00.000004+00'", "'2000-01-01 01:11:34.967301+00'"),
        ("geometry", "st_point(1, 2)", "st_setsrid(st_point(1, 2), 4326)"),
        ("geometry", "st_makepoint(1, 2, 3)", "st_makepointm(1, 2, 3)"),
        ("bytea", "'\\x00'", "'\\x0000'"),
        ("int4[]", "array[1, null]", "array[null, 1]::int4[]"),
    ]
    for kind, one, other in pairs:
        digests = set()
        for value in (one, other):
            with conn.transaction(force_rollback=True):
                conn.execute(f"create table catalogue.probe as select ({value})::{kind} as value".encode())
                digests.add(of(conn, "catalogue.probe").digest)
        assert len(digests) == 2, kind


def test_storage_and_order_play_no_part(conn: psycopg.Connection[Any]) -> None:
    """A partitioned copy with other column order, and a view over it, have the digest of the plain table."""
    with conn.transaction(force_rollback=True):
        conn.execute(
            f"""
            create table catalogue.parts (data_referencia date not null, restricted boolean, name text, id bigint, gone int,
                geom geometry, layer text, properties jsonb, updated_at timestamptz, created_at timestamptz)
                partition by range (data_referencia);
            alter table catalogue.parts drop column gone;
            create table catalogue.parts_old partition of catalogue.parts for values from (minvalue) to ('2020-01-01');
            create table catalogue.parts_rest partition of catalogue.parts default;
            insert into catalogue.parts (id, layer, name, geom, properties, data_referencia, restricted, created_at, updated_at)
                select id, layer, name, geom, properties, data_referencia, restricted, created_at, updated_at
                from {G} order by md5(id::text);
            create view catalogue.seen as select * from catalogue.parts
            """.encode()
        )
        sums = checksum_tables(conn, [G, "catalogue.parts", "catalogue.seen"])
        assert len(set(sums.values())) == 1
        assert "catalogue.parts_old" not in checksum_tables(conn)


def test_rows_of_known_later_writes_can_be_left_out(conn: psycopg.Connection[Any]) -> None:
    """Rows outside the given ids compare equal although those ids were written to, and unequal when another was."""
    written = [3, 4, 5]
    before = checksum_tables(conn, exclude_ids={G: written})
    with conn.transaction(force_rollback=True):
        conn.execute("set local session_replication_role = replica")
        conn.execute(f"update {G} set name = 'later' where id = any (%s)", [written])
        assert diff_checksums(before, checksum_tables(conn, exclude_ids={G: written})) == []
        conn.execute(f"update {G} set name = 'lost' where id = 6")
        found = diff_checksums(before, checksum_tables(conn, exclude_ids={G: written}))
    assert [(each.object_name, each.property) for each in found] == [(G, "checksum of rows")]


def test_the_column_to_leave_rows_out_by_can_be_another(conn: psycopg.Connection[Any]) -> None:
    """Annotations are left out by the geometry that they belong to."""
    name = "catalogue.annotations"
    every = of(conn, name).rows
    some = checksum_tables(conn, [name], exclude_ids={name: [5, 10]}, id_columns={name: "geometria_id"})[name].rows
    expected = conn.execute(f"select count(*) from {name} where geometria_id not in (5, 10)").fetchone()
    assert (some,) == expected
    assert some <= every


def test_a_lost_row_is_reported_by_count(conn: psycopg.Connection[Any]) -> None:
    """The difference reads like one of the fingerprint."""
    before = checksum_tables(conn)
    with conn.transaction(force_rollback=True):
        conn.execute("delete from catalogue.inspections where id = (select min(id) from catalogue.inspections)")
        found = diff_checksums(before, checksum_tables(conn))
    rows = before["catalogue.inspections"].rows
    assert [str(each) for each in found] == [
        f"number of rows of table catalogue.inspections: expected {rows}, found {rows - 1}"
    ]


def test_row_level_security_is_refused_not_obeyed(conn: psycopg.Connection[Any]) -> None:
    """A role that sees some rows only gets an error, never a checksum of those."""
    with conn.transaction(force_rollback=True):
        conn.execute("set local role gis_reader")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            checksum_tables(conn, [G])


def test_a_name_that_is_no_table_is_named(conn: psycopg.Connection[Any]) -> None:
    """A misspelt table, and a table without the id column, are errors that say so."""
    with pytest.raises(ChecksumError, match=r"catalogue\.nowhere"):
        checksum_tables(conn, ["catalogue.nowhere"])
    with pytest.raises(ChecksumError, match="expected a column id"):
        checksum_tables(conn, exclude_ids={"catalogue.layers": [1]})
    with pytest.raises(ChecksumError, match=r"catalogue\.other"):
        checksum_tables(conn, [G], exclude_ids={"catalogue.other": [1]})
