"""Preflight on a real server: each trouble is provoked and named, and a clean server stops nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from comporta.dryrun.preflight import Finding, Recorded, preflight
from comporta.proof.fingerprint import take

G = "catalogue.geometrias"
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def dsn(servers: Any) -> str:
    """A catalogue that every test of this module leaves as it was."""
    return str(servers.target.fresh_catalogue())


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("select pg_stat_statements_reset()")
        yield connection


def look(conn: psycopg.Connection[Any], **arguments: Any) -> list[Finding]:
    return preflight(conn, **{"now": datetime.now(UTC), "free_bytes": 10**15, **arguments})


def found(findings: list[Finding], code: str) -> list[Finding]:
    return [finding for finding in findings if finding.code == code]


def test_a_clean_server_stops_nothing(conn: psycopg.Connection[Any]) -> None:
    """Nothing forbids going on with the demo catalogue, and every finding says what to do."""
    findings = look(conn)
    assert [finding for finding in findings if finding.severity == "stop"] == []
    assert all(finding.cure and finding.evidence for finding in findings)


@pytest.mark.parametrize(
    ("statement", "code", "severity", "named"),
    [
        (
            "update pg_index set indisvalid = false where indexrelid = 'catalogue.geometrias_geom_idx'::regclass",
            "invalid-index",
            "stop",
            "catalogue.geometrias_geom_idx",
        ),
        (
            f"alter table {G} add constraint fresh check (id > 0) not valid",
            "constraint-not-valid",
            "warn",
            f"fresh on {G}",
        ),
        (f"alter table {G} disable trigger geometrias_touch", "trigger-disabled", "note", f"geometrias_touch on {G}"),
        (
            "create table catalogue.small (id int generated always as identity);"
            " select setval('catalogue.small_id_seq', 2100000000)",
            "sequence-near-its-end",
            "stop",
            "catalogue.small_id_seq",
        ),
        (
            "create table catalogue.small (id int); create sequence catalogue.wide owned by catalogue.small.id;"
            " select setval('catalogue.wide', 1700000000)",
            "sequence-near-its-end",
            "warn",
            "catalogue.wide",
        ),
        (
            "alter function catalogue.geometrias_record_edit() reset search_path",
            "definer-without-search-path",
            "warn",
            "catalogue.geometrias_record_edit()",
        ),
        (
            "create table catalogue.bare (id int); alter publication catalogue_feed add table catalogue.bare",
            "published-without-identity",
            "warn",
            "catalogue.bare",
        ),
        (
            "create table catalogue.years (d date) partition by range (d);"
            "create table catalogue.rest partition of catalogue.years default;"
            "insert into catalogue.years values ('2029-01-01')",
            "default-partition-rows",
            "warn",
            "catalogue.rest",
        ),
        (
            "create table catalogue.shapes (geom geometry); insert into catalogue.shapes values (null)",
            "geometry-null",
            "warn",
            "catalogue.shapes.geom",
        ),
        (
            "create table catalogue.shapes (geom geometry);"
            " insert into catalogue.shapes values ('polygon((0 0, 1 1, 1 0, 0 1, 0 0))')",
            "geometry-invalid",
            "warn",
            "catalogue.shapes.geom",
        ),
        (
            "create table catalogue.shapes (geom geometry);"
            " insert into catalogue.shapes values ('srid=4326;point(0 0)'), ('srid=4674;point(0 0)')",
            "geometry-srid-mixed",
            "warn",
            "catalogue.shapes.geom",
        ),
        ("drop extension pg_stat_statements", "workload-not-known", "warn", "pg_stat_statements"),
        ("set local role gis_reader", "activity-hidden", "warn", "pg_stat_activity"),
    ],
)
def test_a_trouble_in_the_catalogue_is_found(
    conn: psycopg.Connection[Any], statement: str, code: str, severity: str, named: str
) -> None:
    """Provoked in an open transaction, seen from within it, gone after it."""
    with conn.transaction(force_rollback=True):
        conn.execute(statement.encode())
        findings = found(look(conn), code)
    assert [(each.severity, each.object) for each in findings] == [(severity, named)]
    assert found(look(conn), code) == []


def test_what_is_outside_the_release_does_not_stop_it(conn: psycopg.Connection[Any]) -> None:
    """An invalid index of another table is a note when the release names its tables."""
    with conn.transaction(force_rollback=True):
        conn.execute(
            b"update pg_index set indisvalid = false where indexrelid = 'catalogue.geometrias_geom_idx'::regclass"
        )
        inside, outside = look(conn, tables=[G]), look(conn, tables=["catalogue.layers"])
    assert [each.severity for each in found(inside, "invalid-index")] == ["stop"]
    assert [each.severity for each in found(outside, "invalid-index")] == ["note"]


@pytest.mark.parametrize(("after", "severity"), [(timedelta(minutes=1), "warn"), (timedelta(hours=1), "stop")])
def test_an_idle_transaction_is_named_with_pid_and_application(
    conn: psycopg.Connection[Any], dsn: str, after: timedelta, severity: str
) -> None:
    """The longer it has been open, the worse; the moment is an argument, so nobody waits for it."""
    with psycopg.connect(dsn, application_name="forgotten editor") as other:
        other.execute("select 1")
        (finding,) = found(look(conn, now=datetime.now(UTC) + after), "idle-in-transaction")
        assert finding.severity == severity
        assert f"pid {other.info.backend_pid}," in finding.object
        assert "forgotten editor" in finding.object
    assert found(look(conn, now=datetime.now(UTC) + after), "idle-in-transaction") == []


def test_a_long_running_query_is_named(conn: psycopg.Connection[Any], dsn: str) -> None:
    """A statement that waits for a lock is as long a transaction as one that computes."""
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as waiter:
        holder.execute("select pg_advisory_xact_lock(7)")
        waiter.pgconn.send_query(b"select pg_advisory_lock(7)")
        for _ in range(2_000):
            waiting = conn.execute("select wait_event from pg_stat_activity where pid = %s", [waiter.info.backend_pid])
            if waiting.fetchone() == ("advisory",):
                break
        findings = found(look(conn, now=datetime.now(UTC) + timedelta(hours=1)), "long-transaction")
        conn.execute("select pg_cancel_backend(%s)", [waiter.info.backend_pid])
        while waiter.pgconn.get_result() is not None:
            pass
    assert [each.severity for each in findings] == ["stop"]


def test_free_disk_is_compared_with_what_is_needed_and_unknown_is_no_pass(
    conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than needed stops, less than twice warns, twice passes, and no data warns."""
    severities = {
        free: [each.severity for each in found(look(conn, headroom_bytes=100, free_bytes=free), "disk-headroom")]
        for free in (99, 150, 200)
    }
    assert severities == {99: ["stop"], 150: ["warn"], 200: []}
    with conn.transaction(force_rollback=True):
        conn.execute("set local role gis_reader")
        unknown = found(look(conn, free_bytes=None), "disk-not-known")
    assert [each.severity for each in unknown] == ["warn"]


def test_an_inactive_replication_slot_is_named(conn: psycopg.Connection[Any]) -> None:
    """It keeps WAL, and a change writes much of it."""
    conn.execute("select pg_create_physical_replication_slot('forgotten', true)")
    try:
        (finding,) = found(look(conn), "slot-inactive")
    finally:
        conn.execute("select pg_drop_replication_slot('forgotten')")
    assert finding.object == "replication slot forgotten"


def test_statements_that_partitioning_would_break_are_found(conn: psycopg.Connection[Any]) -> None:
    """ON CONFLICT (id) on geometrias, as applications sent it."""
    with conn.transaction(force_rollback=True):
        conn.execute(
            f"insert into {G} (id, layer, name, geom, data_referencia) select id, layer, name, geom, data_referencia"
            f" from {G} limit 1 on conflict (id) do nothing"
        )
    (finding,) = found(look(conn, tables=[G]), "on-conflict-id")
    assert G in finding.object
    assert found(look(conn, tables=["catalogue.layers"]), "on-conflict-id") == []


def test_drift_since_the_recorded_fingerprint_stops(conn: psycopg.Connection[Any]) -> None:
    """Each difference is a finding that names it, and none is found while nothing changed."""
    recorded = Recorded(take(conn), at=NOW)
    assert found(look(conn, recorded=recorded), "drift") == []
    with conn.transaction(force_rollback=True):
        conn.execute(f"revoke select on {G} from gis_reader")
        (finding,) = found(look(conn, recorded=recorded), "drift")
    assert finding.severity == "stop"
    assert f"grant SELECT on table {G} to gis_reader: expected present, found absent" in finding.evidence
    assert NOW.isoformat(timespec="seconds") in finding.evidence


def test_a_shadow_with_the_same_versions_is_accepted_and_an_unoffered_extension_is_not(
    conn: psycopg.Connection[Any], servers: Any
) -> None:
    """A proof on another PostGIS proves nothing about this one."""
    with psycopg.connect(servers.shadow.database("postgres"), autocommit=True) as shadow:
        assert found(look(conn, shadow=shadow), "extension-differs") == []
        with conn.transaction(force_rollback=True):
            conn.execute("update pg_extension set extversion = '9.9.9' where extname in ('postgis', 'unaccent')")
            differing = found(look(conn, shadow=shadow), "extension-differs")
    assert [(each.object, each.severity) for each in differing] == [("postgis", "stop"), ("unaccent", "warn")]


def test_few_free_connections_are_reported(conn: psycopg.Connection[Any], dsn: str) -> None:
    """A change needs a handful of connections of its own."""
    (total,) = conn.execute(
        "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    ).fetchone() or (0,)
    held: list[psycopg.Connection[Any]] = []
    try:
        (used,) = conn.execute(
            "select count(*) from pg_stat_activity where backend_type = 'client backend'"
        ).fetchone() or (0,)
        held = [psycopg.connect(dsn) for _ in range(total - used - 1)]
        (finding,) = found(look(conn), "few-connections-left")
    finally:
        for each in held:
            each.close()
    assert finding.severity == "stop"
