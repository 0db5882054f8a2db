"""Trouble made on purpose is the trouble that was asked for, no more, and it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from comporta.postgres.connection import Connection, connect
from comporta.validation import faults, obstacles
from comporta.validation.faults import BackendGone, FaultNotPossible, NotRecovered
from comporta.validation.obstacles import Obstacle

GEOMETRIES = "catalogue.geometrias"
NOT_PARALLEL = ("set max_parallel_workers_per_gather = 0", "set max_parallel_maintenance_workers = 0")
ABOUT_1_MB = "select i, repeat('x', 80) from generate_series({0}, {0} + 9999) i"


@pytest.fixture
def admin(catalogue: str) -> Iterator[Connection]:
    """A superuser's session on the catalogue."""
    with connect(catalogue, name="test/admin") as conn:
        yield conn


@pytest.fixture
def session(catalogue: str) -> Iterator[Connection]:
    """The session that trouble is made for."""
    with closing(connect(catalogue, name="test/session")) as conn:
        for setting in NOT_PARALLEL:
            conn.execute(setting)  # type: ignore[arg-type]
        yield conn


def ask(dsn: str, query: str, *parameters: object) -> Any:
    with connect(dsn, name="test/ask") as conn:
        row = conn.execute(query, parameters or None).fetchone()  # type: ignore[arg-type]
        return row and row[0]


def locks_of(conn: Connection, obstacle: Obstacle) -> dict[str, str]:
    """Relation (``schema.name``) to mode, for what the obstacle holds in the catalogue's schema."""
    return dict(
        conn.execute(
            "select n.nspname || '.' || c.relname, l.mode from pg_locks l join pg_class c on c.oid = l.relation"
            " join pg_namespace n on n.oid = c.relnamespace"
            " where l.pid = %s and l.granted and c.relkind <> 'i' and n.nspname = 'catalogue'",
            (obstacle.pid,),
        ).fetchall()
    )


def test_a_terminated_backend_is_gone_and_a_second_time_there_was_nothing_to_end(
    admin: Connection, session: Connection
) -> None:
    pid = session.info.backend_pid
    assert faults.terminate(admin, pid) is True
    assert admin.execute("select from pg_stat_activity where pid = %s", (pid,)).rowcount == 0
    with pytest.raises(psycopg.errors.AdminShutdown):
        session.execute("select 1")
    assert faults.terminate(admin, pid) is False


def test_a_crash_keeps_what_was_acknowledged_and_loses_what_was_open(catalogue: str, session: Connection) -> None:
    session.execute("create table catalogue.kept (what text)")
    session.execute("insert into catalogue.kept values ('acknowledged')")
    session.execute("begin")
    session.execute("insert into catalogue.kept values ('open')")
    said: list[str] = []

    recovery = faults.crash_server(catalogue, on_progress=said.append)

    with pytest.raises(psycopg.OperationalError):
        session.execute("select 1")
    assert ask(catalogue, "select string_agg(what, ' ') from catalogue.kept") == "acknowledged"
    assert recovery.back_at > recovery.crashed_at
    assert recovery.seconds == recovery.back_at - recovery.crashed_at
    assert len(said) == 3


def test_a_crash_through_a_victim_kills_that_very_session_in_the_middle_of_its_statement(
    catalogue: str, session: Connection, servers: Any
) -> None:
    session.execute("begin")
    session.execute("create table catalogue.half ()")
    pid = session.info.backend_pid

    faults.crash_server(catalogue, victim_pid=pid)

    assert f"(PID {pid}) was terminated by signal 9" in servers.shadow.cluster.log.read_text(errors="replace")
    assert ask(catalogue, "select to_regclass('catalogue.half')") is None


def test_after_a_crash_the_launcher_of_copied_jobs_is_away(cron: str) -> None:
    """It was at work before, so the server started it again."""
    faults.crash_server(cron)
    assert ask(cron, "select count(*) from pg_stat_activity where backend_type ~ 'pg_cron'") == 0
    faults.crash_server(cron)
    assert ask(cron, "select count(*) from pg_stat_activity where backend_type ~ 'pg_cron'") == 0


def test_a_server_that_may_lose_acknowledged_writes_is_not_crashed(catalogue: str, session: Connection) -> None:
    with pytest.raises(FaultNotPossible, match="synchronous_commit is off"):
        faults.crash_server(make_conninfo(catalogue, options="-c synchronous_commit=off"))
    assert session.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("scope", ["database gis", "role app_editor", "role app_editor in database gis"])
def test_nor_is_one_whose_application_may_lose_them(
    catalogue: str, admin: Connection, session: Connection, scope: str
) -> None:
    admin.execute(f"alter {scope} set synchronous_commit to off")  # type: ignore[arg-type]
    try:
        with pytest.raises(FaultNotPossible, match="synchronous_commit is off"):
            faults.crash_server(make_conninfo(catalogue, options="-c synchronous_commit=on"))
    finally:
        admin.execute(f"alter {scope} reset synchronous_commit")  # type: ignore[arg-type]
    assert session.execute("select 1").fetchone() == (1,)


def test_only_a_superuser_crashes_a_server(catalogue: str, session: Connection) -> None:
    with pytest.raises(FaultNotPossible, match="this fault takes a superuser"):
        faults.crash_server(make_conninfo(catalogue, options="-c role=gis_reader"))
    assert session.execute("select 1").fetchone() == (1,)


def test_a_server_that_would_stay_down_is_not_crashed(catalogue: str, admin: Connection, session: Connection) -> None:
    admin.execute("alter system set restart_after_crash to off")
    admin.execute("select pg_reload_conf()")
    try:
        while admin.execute("show restart_after_crash").fetchone() == ("on",):
            admin.execute("select pg_sleep(0.01)")
        with pytest.raises(FaultNotPossible, match="restart_after_crash is off"):
            faults.crash_server(catalogue)
    finally:
        admin.execute("alter system reset restart_after_crash")
        admin.execute("select pg_reload_conf()")
    assert session.execute("select 1").fetchone() == (1,)


def test_a_victim_that_has_ended_is_not_looked_for_among_the_machines_processes(
    catalogue: str, admin: Connection, session: Connection
) -> None:
    gone = connect(catalogue, name="test/gone")
    pid = gone.info.backend_pid
    gone.close()
    faults.terminate(admin, pid)
    with pytest.raises(BackendGone, match=f"backend {pid} is no session"):
        faults.crash_server(catalogue, victim_pid=pid)
    with pytest.raises(BackendGone):
        faults.set_quota(admin, pid, faults.smallest_quota(admin))
    assert session.execute("select 1").fetchone() == (1,)


def test_a_server_that_stays_away_is_told_of(catalogue: str, servers: Any) -> None:
    servers.shadow.stop()
    try:
        with pytest.raises(NotRecovered, match=r"does not answer 0 s after its crash"):
            faults._await_recovery(catalogue, 0)
    finally:
        servers.shadow.start()


def test_the_shadow_has_segments_small_enough_for_a_quota_of_one_megabyte(admin: Connection) -> None:
    assert faults.smallest_quota(admin) == 1024 * 1024


def test_a_table_does_not_outgrow_its_quota_and_the_session_lives_on(
    catalogue: str, admin: Connection, session: Connection
) -> None:
    session.execute("create table catalogue.filling (i int, t text)")
    session.execute("create table catalogue.small (i int)")
    with faults.disk_quota(catalogue, session.info.backend_pid, faults.smallest_quota(admin)):
        with pytest.raises(psycopg.errors.InternalError_, match="File too large") as caught:
            session.execute("insert into catalogue.filling " + ABOUT_1_MB.format(0) + ", generate_series(1, 3)")  # type: ignore[arg-type]
        assert caught.value.sqlstate == "XX000"
        assert caught.value.diag.message_hint == "Check free disk space."
        session.execute("insert into catalogue.small values (1)")
        assert session.execute("select count(*) from catalogue.filling").fetchone() == (0,)
    session.execute("insert into catalogue.filling " + ABOUT_1_MB.format(0) + ", generate_series(1, 3)")  # type: ignore[arg-type]
    assert session.execute("select count(*) from catalogue.filling").fetchone() == (30_000,)
    assert session.execute("select count(*) from catalogue.small").fetchone() == (1,)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("create index on catalogue.src (i, t)", id="b-tree"),
        pytest.param("create index on catalogue.src using gist (p)", id="gist"),
        pytest.param("create index concurrently on catalogue.src (i, t)", id="concurrently"),
        pytest.param("create materialized view catalogue.copied as select * from catalogue.src", id="view"),
        pytest.param("copy catalogue.src from program 'seq 1 60000'", id="copy"),
        pytest.param("vacuum full catalogue.src", id="rewrite"),
        pytest.param("select count(*) from (select from catalogue.src order by t desc, i offset 1) s", id="sort"),
    ],
)
def test_whatever_grows_hits_the_quota_and_nothing_of_it_stays(
    catalogue: str, admin: Connection, session: Connection, statement: str
) -> None:
    if statement.startswith("copy"):
        admin.execute("create table catalogue.src (line text)")
    else:
        admin.execute(
            "create table catalogue.src as select i, repeat('x', 80) t, point(i, i) p from generate_series(1, 30000) i"
        )
    session.execute("set work_mem to '64kB'")
    before = admin.execute("select count(*), max(pg_postmaster_start_time()) from catalogue.src").fetchone()
    with faults.disk_quota(catalogue, session.info.backend_pid, faults.smallest_quota(admin)):
        with pytest.raises(psycopg.errors.InternalError_, match="File too large"):
            session.execute(statement)  # type: ignore[arg-type]
        assert session.execute("select 1").fetchone() == (1,)
    assert admin.execute("select count(*), max(pg_postmaster_start_time()) from catalogue.src").fetchone() == before
    session.execute(statement)  # type: ignore[arg-type]


def test_megabytes_of_wal_under_the_smallest_quota_do_not_bring_the_server_down(
    catalogue: str, admin: Connection, session: Connection
) -> None:
    session.execute("create table catalogue.churn (i int, t text)")
    where = admin.execute("select pg_current_wal_lsn()").fetchone()
    assert where is not None
    with faults.disk_quota(catalogue, session.info.backend_pid, faults.smallest_quota(admin)):
        for _ in range(8):
            session.execute("insert into catalogue.churn " + ABOUT_1_MB.format(0) + " limit 5000")  # type: ignore[arg-type]
            session.execute("truncate catalogue.churn")
            session.execute("select pg_switch_wal()")
    written = admin.execute("select pg_current_wal_lsn() - %s::pg_lsn", where).fetchone()
    assert written is not None
    assert written[0] > 4 * faults.smallest_quota(admin)


def test_a_quota_that_would_stop_the_wal_is_refused(admin: Connection, session: Connection) -> None:
    with pytest.raises(FaultNotPossible, match="smaller than a WAL segment"):
        faults.set_quota(admin, session.info.backend_pid, faults.smallest_quota(admin) - 1)


def test_a_quota_ends_with_its_backend(catalogue: str, admin: Connection, session: Connection) -> None:
    with faults.disk_quota(catalogue, session.info.backend_pid, faults.smallest_quota(admin)):
        assert faults.terminate(admin, session.info.backend_pid)
    assert faults.lift_quota(admin, session.info.backend_pid) is False


def test_only_a_superuser_sets_a_quota(catalogue: str, session: Connection) -> None:
    as_reader = connect(make_conninfo(catalogue, options="-c role=gis_reader"), name="test/reader")
    with as_reader as conn, pytest.raises(FaultNotPossible, match="this fault takes a superuser"):
        faults.set_quota(conn, session.info.backend_pid, faults.smallest_quota(conn))


def test_a_program_that_the_server_lacks_is_named(admin: Connection) -> None:
    with pytest.raises(FaultNotPossible, match=r"`no-such-program`.*command not found"):
        faults._run_on_server(admin, "no-such-program")


def test_a_program_that_fails_because_the_backend_has_just_ended_says_that(
    admin: Connection, session: Connection
) -> None:
    with pytest.raises(FaultNotPossible, match="exit code 1") as caught:
        faults._hit(admin, session.info.backend_pid, "false")
    assert not isinstance(caught.value, BackendGone)
    faults.terminate(admin, session.info.backend_pid)
    with pytest.raises(BackendGone):
        faults._hit(admin, session.info.backend_pid, "false")


def test_a_reader_holds_its_locks_and_lets_go(catalogue: str, admin: Connection) -> None:
    view = admin.execute("create materialized view catalogue.seen as select 1 as one").statusmessage
    assert view
    wanted = [GEOMETRIES, "catalogue.layers", "catalogue.seen", "catalogue.vanished"]
    with obstacles.reader(catalogue, wanted, 0.5) as reader:
        held = locks_of(admin, reader)
        assert {name: held[name] for name in wanted[:3]} == dict.fromkeys(wanted[:3], "AccessShareLock")
        assert reader.relations == tuple(wanted[:3])
        assert reader.ended is None
    assert locks_of(admin, reader) == {}
    assert reader.ended is not None
    assert reader.ended - reader.started >= 0.5
    assert reader.cut_short is None


def test_a_writer_holds_its_locks_and_lets_go(catalogue: str, admin: Connection) -> None:
    admin.execute("create materialized view catalogue.seen as select 1 as one")
    admin.execute("create view catalogue.through as select * from catalogue.edits")
    wanted = [GEOMETRIES, "catalogue.seen", "catalogue.through"]
    with obstacles.writer(catalogue, wanted, 0.5) as writer:
        held = locks_of(admin, writer)
        assert held == dict.fromkeys([GEOMETRIES, "catalogue.through", "catalogue.edits"], "RowExclusiveLock")
        with pytest.raises(psycopg.errors.LockNotAvailable), admin.transaction():
            admin.execute("lock table catalogue.geometrias in share mode nowait")
    assert locks_of(admin, writer) == {}
    assert writer.ended is not None
    assert writer.ended - writer.started >= 0.5


def test_a_writer_keeps_nothing_while_one_of_its_tables_is_not_to_be_had(catalogue: str, session: Connection) -> None:
    """Otherwise whoever holds that table and then wants the others would be in a deadlock with it."""
    session.execute("set deadlock_timeout to '10ms'")
    session.execute("begin")
    session.execute("lock table catalogue.layers in access exclusive mode")
    writer = obstacles.writer(catalogue, [GEOMETRIES, "catalogue.layers"], 0.1)
    with pytest.raises(FaultNotPossible, match="no obstacle could be put up within 2 s"), writer:
        pass
    session.execute("lock table catalogue.geometrias in access exclusive mode")
    session.execute("rollback")


@pytest.mark.parametrize("put_up", [obstacles.reader, obstacles.writer], ids=["reader", "writer"])
def test_an_error_within_cuts_an_obstacle_short(catalogue: str, admin: Connection, put_up: Any) -> None:
    with pytest.raises(ZeroDivisionError), put_up(catalogue, [GEOMETRIES], 600) as obstacle:
        raise ZeroDivisionError
    assert locks_of(admin, obstacle) == {}
    assert "canceling statement" in obstacle.cut_short


def test_an_obstacle_that_was_ended_says_so(catalogue: str, admin: Connection) -> None:
    with obstacles.reader(catalogue, [GEOMETRIES], 600) as reader:
        faults.terminate(admin, reader.pid)
    assert reader.cut_short is not None
    assert "terminating connection" in reader.cut_short
    assert reader.ended is not None


def test_names_that_need_quotes_are_found(catalogue: str, admin: Connection) -> None:
    admin.execute(sql.SQL("create table catalogue.{} ()").format(sql.Identifier('São "Paulo"')))
    with obstacles.writer(catalogue, ['catalogue.São "Paulo"'], 0) as writer:
        assert writer.relations == ('catalogue.São "Paulo"',)


def test_an_obstacle_to_nothing_is_refused(catalogue: str) -> None:
    """A rollback that nobody was in the way of proves nothing."""
    nowhere = obstacles.reader(catalogue, ["catalogue.vanished"], 0.1)
    with pytest.raises(FaultNotPossible, match=r"in nobody's way: nothing to lock among catalogue.vanished"), nowhere:
        pass
