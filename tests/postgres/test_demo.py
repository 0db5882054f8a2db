"""The demo catalogue on a real server: the same every time and complete; traffic on it reports every loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comporta.demo.load import CatalogueDiffers, CatalogueUnfinished, load_catalogue
from comporta.demo.traffic import Traffic, TrafficFailed, TrafficRecord, lost_writes
from comporta.errors import UnreachableServer, UnsafeTarget

ROWS = 5_000
RESET = "drop schema if exists catalogue, comporta cascade; drop publication if exists catalogue_feed"

STRUCTURE = """
    select 'index', indexrelid::regclass::text,
           pg_get_indexdef(indexrelid) || indisvalid || coalesce(obj_description(indexrelid, 'pg_class'), '')
      from pg_index where indrelid in (select oid from pg_class where relnamespace = 'catalogue'::regnamespace)
    union all
    select 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) || convalidated
      from pg_constraint where connamespace = 'catalogue'::regnamespace
    union all
    select 'trigger', tgrelid::regclass || '.' || tgname, tgenabled::text || pg_get_triggerdef(oid)
      from pg_trigger where not tgisinternal
    union all
    select 'internal triggers', tgrelid::regclass::text, string_agg(tgenabled::text, '')
      from pg_trigger where tgisinternal group by 1, 2
    union all
    select 'relation', oid::regclass::text,
           concat_ws(' ', relkind, pg_get_userbyid(relowner), relacl, reloptions, relrowsecurity, relpersistence)
      from pg_class where relnamespace = 'catalogue'::regnamespace and relkind in ('r', 'v', 'S', 'i')
    order by 1, 2"""
DIGEST = """
    select (select sum(hashtextextended(g::text, 0)::numeric) from catalogue.geometrias g),
           (select sum(hashtextextended(a::text, 0)::numeric) from catalogue.annotations a),
           (select sum(hashtextextended(i::text, 0)::numeric) from catalogue.inspections i),
           (select sum(hashtextextended(l::text, 0)::numeric) from catalogue.layers l)"""


def rows(dsn: str, query: str, role: str | None = None) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set timezone to 'UTC'")
        if role:
            connection.execute(f"set role {role}".encode())
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def value(dsn: str, query: str, role: str | None = None) -> Any:
    return rows(dsn, query, role)[0][0]


@contextmanager
def traffic_until(dsn: str, enough: Callable[[Traffic], bool], **settings: Any) -> Iterator[Traffic]:
    """Traffic that has done enough work when the body begins, however slow the machine."""
    with Traffic(dsn, **settings) as traffic:
        while not enough(traffic):
            assert traffic.is_running()
            rows(dsn, "select pg_sleep(0.02)")
        yield traffic


def recorded(dsn: str, operations: int = 150, **settings: Any) -> TrafficRecord:
    with traffic_until(
        dsn, lambda traffic: traffic.progress().done >= operations, connections=4, **settings
    ) as traffic:
        return traffic.stop()


# --- The data ---------------------------------------------------------------------------------------------------------


def test_the_same_rows_and_seed_give_the_same_data_and_another_seed_does_not(catalogue: str) -> None:
    first = rows(catalogue, DIGEST)
    rows(catalogue, RESET)
    load_catalogue(catalogue, rows=ROWS)
    assert rows(catalogue, DIGEST) == first
    rows(catalogue, RESET)
    load_catalogue(catalogue, rows=ROWS, seed=2)
    assert rows(catalogue, DIGEST) != first


def test_loading_leaves_the_structure_as_the_schema_script_made_it(catalogue: str, project: Path) -> None:
    loaded = rows(catalogue, STRUCTURE)
    rows(catalogue, RESET)
    with psycopg.connect(catalogue, autocommit=True) as connection:
        connection.execute((project / "sql/demo/10_schema.sql").read_bytes())
    assert loaded == rows(catalogue, STRUCTURE)


def test_every_part_of_a_catalogue_in_use_is_there(catalogue: str) -> None:
    assert value(catalogue, "select count(*) from catalogue.geometrias") == ROWS
    assert 8 <= value(catalogue, "select count(*) from catalogue.layers") <= 12
    assert value(catalogue, "select count(*) from catalogue.layers where is_official") >= 3
    assert 0.07 * ROWS < value(catalogue, "select count(*) from catalogue.annotations") < 0.13 * ROWS
    assert 0.03 * ROWS < value(catalogue, "select count(*) from catalogue.inspections") < 0.07 * ROWS
    assert 0.02 * ROWS < value(catalogue, "select count(*) from catalogue.geometrias where restricted") < 0.04 * ROWS
    assert value(catalogue, "select count(*) from catalogue.edits") == 0
    assert value(catalogue, "select count(*) from pg_publication_tables where pubname = 'catalogue_feed'") == 2
    assert value(catalogue, "select count(*) from pg_policy where polrelid = 'catalogue.geometrias'::regclass") == 2
    assert (
        value(catalogue, "select count(*) from pg_stats where schemaname = 'catalogue' and tablename = 'geometrias'")
        > 5
    )


def test_geometries_are_valid_small_and_on_the_globe(catalogue: str) -> None:
    bad = """
        select count(*) from catalogue.geometrias
        where not st_isvalid(geom) or not st_makeenvelope(-180, -90, 180, 90, 4326) ~ geom"""
    assert value(catalogue, bad) == 0
    assert rows(
        catalogue, "select min(st_npoints(geom)) >= 20, max(st_npoints(geom)) <= 60 from catalogue.geometrias"
    ) == [(True, True)]
    assert 300 < value(catalogue, "select avg(st_memsize(geom)) from catalogue.geometrias") < 800


def test_valid_time_covers_every_year_and_grows(catalogue: str) -> None:
    years = rows(
        catalogue,
        "select extract(year from data_referencia)::int, count(*) from catalogue.geometrias group by 1 order by 1",
    )
    assert [year for year, _ in years] == list(range(2015, 2029))
    assert years[-1][1] > 3 * years[0][1]


def test_the_catalogue_received_more_rows_every_year(catalogue: str) -> None:
    years = [
        n
        for _, n in rows(
            catalogue, "select extract(year from created_at), count(*) from catalogue.geometrias group by 1 order by 1"
        )
    ]
    assert years[1:-1] == sorted(years[1:-1])
    assert value(catalogue, "select count(*) from catalogue.geometrias where updated_at < created_at") == 0


def test_names_carry_accents_and_a_few_of_them_are_common(catalogue: str) -> None:
    assert value(catalogue, "select count(*) from catalogue.geometrias where name <> unaccent(name)") > 0.3 * ROWS
    found = "select count(*) from catalogue.rpc_search('lagoa sao joao', null, null, null, 20)"
    assert value(catalogue, found, role="gis_reader") > 0


def test_the_next_identity_value_follows_the_last_row(catalogue: str) -> None:
    insert = """
        insert into catalogue.geometrias (layer, name, geom, data_referencia)
        select layer, name, geom, data_referencia from catalogue.geometrias where id = 1 returning id"""
    assert value(catalogue, insert, role="gis_editor") == ROWS + 1
    assert rows(catalogue, "select geometria_id, action from catalogue.edits") == [(ROWS + 1, "insert")]


def test_readers_never_see_restricted_rows_and_editors_do(catalogue: str) -> None:
    count = "select count(*) from catalogue.geometrias where restricted"
    assert value(catalogue, count, role="app_reader") == 0
    assert value(catalogue, count, role="app_editor") == value(catalogue, count) > 0


# --- Loading into what is not empty -----------------------------------------------------------------------------------


def test_loading_again_does_nothing(catalogue: str) -> None:
    before = rows(catalogue, DIGEST)
    assert load_catalogue(catalogue, rows=ROWS).already_there
    assert rows(catalogue, DIGEST) == before


def test_a_catalogue_of_another_size_is_not_replaced(catalogue: str) -> None:
    with pytest.raises(CatalogueDiffers, match="5,000 rows"):
        load_catalogue(catalogue, rows=ROWS + 1)
    assert value(catalogue, "select count(*) from catalogue.geometrias") == ROWS


def test_a_half_made_catalogue_is_recognised_and_the_way_out_works(catalogue: str) -> None:
    rows(catalogue, "update comporta.demo set finished_at = null")
    with pytest.raises(CatalogueUnfinished) as caught:
        load_catalogue(catalogue, rows=ROWS)
    rows(catalogue, caught.value.remedy.split(": ", 1)[1])
    assert not load_catalogue(catalogue, rows=100).already_there


def test_a_database_that_holds_something_else_is_refused_by_name(catalogue: str) -> None:
    rows(catalogue, RESET)
    rows(catalogue, "create table public.payroll (id int)")
    with pytest.raises(UnsafeTarget, match=r'"gis" is not empty.*public\.payroll'):
        load_catalogue(catalogue, rows=100)
    assert value(catalogue, "select to_regnamespace('catalogue')") is None


def test_a_server_that_is_not_there_is_said_so() -> None:
    with pytest.raises(UnreachableServer):
        load_catalogue("host=127.0.0.1 port=1 user=nobody dbname=gis", rows=100)


def test_passwords_reach_the_login_roles_only_as_hashes(catalogue: str) -> None:
    load_catalogue(catalogue, rows=ROWS, passwords={"app_reader": "correct horse"})
    assert value(catalogue, "select rolpassword from pg_authid where rolname = 'app_reader'").startswith(
        "SCRAM-SHA-256$"
    )


# --- Traffic ----------------------------------------------------------------------------------------------------------


def test_a_clean_run_fails_nothing_and_loses_nothing(catalogue: str) -> None:
    record = recorded(catalogue)
    assert record.failed() == []
    assert record.acknowledged
    assert record.unknown == ()
    assert lost_writes(catalogue, record) == []


def test_operations_fall_due_at_the_rates_asked_for(catalogue: str) -> None:
    """Counted on the schedule, not on the clock of the test: the nth operation is due in the nth slot."""
    record = recorded(catalogue, reads_per_s=60, writes_per_s=30)
    for is_write, rate in ((False, 60), (True, 30)):
        due = sorted(operation.due for operation in record.select(is_write=is_write))
        assert len(due) == pytest.approx(rate * (due[-1] - due[0]), abs=5)


def test_traffic_works_under_the_roles_of_the_applications(catalogue: str) -> None:
    """Without the editors' grant on names, renaming fails, though the sign-in is a superuser's."""
    rows(catalogue, "revoke update (name) on catalogue.geometrias from gis_editor")
    record = recorded(catalogue)
    assert {operation.kind for operation in record.failed()} <= {"rename", "pair"}
    assert all((operation.error or "").startswith("42501") for operation in record.failed())
    assert record.failed()
    assert lost_writes(catalogue, record) == []


@pytest.mark.parametrize(
    ("action", "damage"),
    [
        ("insert", "delete from catalogue.geometrias where id = {id}"),
        (
            "update",
            """update catalogue.geometrias
               set name = 'x', geom = st_translate(geom, 1, 1), data_referencia = '2015-02-03' where id = {id}""",
        ),
    ],
    ids=["a row deleted", "an update undone"],
)
def test_a_write_undone_behind_its_back_is_named(catalogue: str, action: str, damage: str) -> None:
    record = recorded(catalogue)
    deleted = {write.id for write in record.acknowledged if write.action == "delete"}
    victim = next(
        write
        for write in record.acknowledged
        if write.table == "geometrias" and write.action == action and write.id not in deleted
    )
    rows(catalogue, damage.format(id=victim.id))
    lost = lost_writes(catalogue, record)
    assert {loss.id for loss in lost if loss.table == "geometrias"} == {victim.id}


def test_a_deleted_row_that_came_back_and_a_vanished_annotation_are_named(catalogue: str) -> None:
    record = recorded(catalogue, operations=250, writes_per_s=120)
    deleted = next(write for write in record.acknowledged if write.action == "delete")
    gone = {write.id for write in record.acknowledged if write.action == "delete"}
    note = next(
        write
        for write in record.acknowledged
        if write.table == "annotations" and int(write.values["geometria_id"]) not in gone
    )
    rows(catalogue, f"delete from catalogue.annotations where id = {note.id}")
    rows(
        catalogue,
        f"""insert into catalogue.geometrias (id, layer, name, geom, data_referencia)
            select {deleted.id}, layer, name, geom, data_referencia from catalogue.geometrias order by id limit 1""",
    )
    lost = {(loss.table, loss.id, loss.action) for loss in lost_writes(catalogue, record)}
    assert lost == {("geometrias", deleted.id, "delete"), ("annotations", note.id, "insert")}


def test_a_row_that_readers_can_no_longer_find_is_a_failed_operation(catalogue: str) -> None:
    with traffic_until(
        catalogue, lambda traffic: traffic.progress().done > 0, writes_per_s=0, connections=2
    ) as traffic:
        rows(catalogue, "update catalogue.geometrias set restricted = true")
        while traffic.progress().failed == 0:
            assert traffic.is_running()
            rows(catalogue, "select pg_sleep(0.02)")
        failed = traffic.stop().failed(kind="read_id")
    assert "gave 0 rows, expected 1" in (failed[0].error or "")


def test_a_cut_connection_fails_its_operation_and_the_traffic_goes_on(catalogue: str) -> None:
    with traffic_until(catalogue, lambda traffic: traffic.progress().done > 20, connections=4) as traffic:
        traffic.mark("cut")
        rows(
            catalogue,
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'comporta traffic%'",
        )
        before = traffic.progress().done
        while traffic.progress().done < before + 100:
            assert traffic.is_running()
            rows(catalogue, "select pg_sleep(0.02)")
        record = traffic.stop()
    assert record.failed()
    assert [mark.label for mark in record.marks] == ["cut"]
    assert [
        operation
        for operation in record.operations
        if operation.at > record.failed()[-1].ended and operation.error is None
    ]
    assert lost_writes(catalogue, record) == []


def test_operations_that_waited_behind_a_lock_show_the_whole_wait(catalogue: str) -> None:
    """The lock is held until several operations queue; those behind it on the same connection waited as well."""
    with traffic_until(catalogue, lambda traffic: traffic.progress().done > 20, connections=2) as traffic:
        with psycopg.connect(catalogue) as connection:
            connection.execute("lock table catalogue.geometrias in access exclusive mode")
            since = traffic.mark("locked")
            while traffic.progress().waiting < 20:
                assert traffic.is_running()
                connection.execute("select pg_sleep(0.02)")
            until = traffic.mark("free")
        record = traffic.stop()
    assert record.failed() == []
    stalled = [
        operation
        for operation in record.operations
        if operation.due < until - 0.1 and operation.ended > until and operation.due > since
    ]
    assert len(stalled) >= 10
    assert record.longest(from_due=True) >= 0.5 * (until - since)


def test_traffic_on_a_database_without_a_catalogue_does_not_start(catalogue: str) -> None:
    rows(catalogue, RESET)
    with pytest.raises(TrafficFailed, match="did not start"):
        Traffic(catalogue).start()
