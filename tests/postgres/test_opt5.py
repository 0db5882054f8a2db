"""OPT5 schedules the refresh, records how fresh the view is, and gives the schedule back as it found it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from comporta.errors import StatementFailed
from comporta.postgres.connection import Connection, connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script

SQL = Path(__file__).resolve().parents[2] / "sql"
STEM = "OPT5_mv_refresh_scheduling_cron.sql"
APPLY, VERIFY, ROLLBACK = SQL / "apply" / STEM, SQL / "verify" / STEM, SQL / f"rollback/ROLLBACK_{STEM}"
OPT3 = SQL / "apply/OPT3_indexed_views_rpc_search.sql"
ROLLBACK_OPT3 = SQL / "rollback/ROLLBACK_OPT3_indexed_views_rpc_search.sql"

# Everything that OPT5 can leave behind: objects of the schema, jobs with their ids, their runs, progress marks.
TRACES = """
    select 'object ' || c.oid::regclass || coalesce(c.relacl::text, '')
    from pg_class c where c.relnamespace = 'catalogue'::regnamespace
    union all
    select 'routine ' || p.oid::regprocedure || coalesce(p.proacl::text, '')
    from pg_proc p where p.pronamespace = 'catalogue'::regnamespace
    union all
    select 'job ' || j::text from cron.job j
    union all
    select 'runs of ' || d.jobid || ' ' || count(*) from cron.job_run_details d group by d.jobid
    union all
    select 'step ' || s.change || ' ' || s.step from comporta.step s
    order by 1"""


def run(dsn: str, path: Path, upto: int | None = None) -> None:
    """Run a script, or its first ``upto`` statements as if it were killed there, on a connection of its own."""
    script = Script.read(path)
    with connect(dsn, name="test") as conn:
        run_script(conn, Script(script.path, script.sha256, script.statements[:upto]))


def traces(dsn: str) -> list[str]:
    with connect(dsn, name="test") as conn:
        return [row[0] for row in conn.execute(TRACES).fetchall()]


def freshness(conn: Connection) -> tuple[object, ...]:
    row = conn.execute("select state, rows, drained, skipped from catalogue.search_freshness").fetchone()
    assert row is not None
    return row


def wait_until(conn: Connection, question: str, tries: int = 2_000) -> None:
    for _ in range(tries):
        if conn.execute(question.encode()).fetchone() is not None:
            return
        conn.execute("select pg_sleep(0.01)")
    raise AssertionError(f"never true: {question}")


@pytest.fixture
def opt3(catalogue: str) -> str:
    """The demo catalogue with OPT3 applied."""
    run(catalogue, OPT3)
    return catalogue


@pytest.fixture
def opt5(opt3: str) -> str:
    """The demo catalogue with OPT3 and OPT5 applied."""
    run(opt3, APPLY)
    return opt3


@pytest.fixture
def busy(opt5: str) -> Iterator[Connection]:
    """A session in the middle of a refresh that waits for a row lock; the lock goes at the end of the test."""
    with (
        connect(opt5, name="holder") as holder,
        connect(opt5, name="refresher") as refresher,
        ThreadPoolExecutor(1) as pool,
    ):
        holder.execute("update catalogue.geometrias set name = 'Em obras' where id = 1")
        holder.execute("begin")
        holder.execute("select from catalogue.search_delta for update")
        refresh = pool.submit(refresher.execute, b"call catalogue.refresh_search_job()")
        with connect(opt5, name="watcher") as watcher:
            wait_until(
                watcher,
                "select true from pg_stat_activity where application_name = 'refresher' and wait_event_type = 'Lock'",
            )
        yield refresher
        holder.execute("rollback")
        refresh.exception()


def test_apply_and_rollback_twice_leave_no_trace(opt3: str) -> None:
    """Jobs, objects, runs and marks are those of before; rows written meanwhile stay."""
    before = traces(opt3)
    for _ in range(2):
        run(opt3, APPLY)
        run(opt3, APPLY)
        run(opt3, VERIFY)
        run(opt3, ROLLBACK)
        run(opt3, ROLLBACK)
        assert traces(opt3) == before
    with pytest.raises(StatementFailed, match="OPT5 is not in place"):
        run(opt3, VERIFY)


def test_apply_requires_opt3(catalogue: str) -> None:
    """Nothing is changed where there is nothing to refresh."""
    before = traces(catalogue)
    with pytest.raises(StatementFailed, match="requires OPT3"):
        run(catalogue, APPLY)
    assert traces(catalogue) == before


def test_opt3_is_not_rolled_back_beneath_opt5(opt5: str) -> None:
    """A job that calls what is gone would fail every few minutes."""
    with pytest.raises(StatementFailed, match="found OPT5 in place"):
        run(opt5, ROLLBACK_OPT3)
    run(opt5, ROLLBACK)
    run(opt5, ROLLBACK_OPT3)


def test_a_job_of_the_same_name_comes_back_as_it_was(opt3: str) -> None:
    """Schedule, command, database, inactive state and id of a former job survive apply and rollback."""
    with connect(opt3, name="test") as conn:
        conn.execute("select cron.schedule('comporta_refresh_search', '1 2 * * 3', 'select 42')")
        conn.execute(
            "update cron.job set active = false, database = 'postgres' where jobname = 'comporta_refresh_search'"
        )
        conn.execute("select cron.schedule('of_somebody_else', '0 0 1 1 *', 'select 1')")
    before = traces(opt3)
    run(opt3, APPLY)
    run(opt3, VERIFY)
    run(opt3, ROLLBACK)
    assert traces(opt3) == before


def test_the_rhythm_is_set_in_one_place(opt3: str) -> None:
    """A setting of the database replaces the default rhythm."""
    with connect(opt3, name="test") as conn:
        conn.execute("alter database gis set comporta.refresh_schedule = '*/2 * * * *'")
    run(opt3, APPLY)
    with connect(opt3, name="test") as conn:
        found = conn.execute("select schedule from cron.job where jobname = 'comporta_refresh_search'").fetchone()
    assert found == ("*/2 * * * *",)


def test_a_run_records_what_it_did(opt5: str) -> None:
    """Changes lead to a refresh, no changes to a note that the view is still true."""
    with connect(opt5, name="test") as conn:
        rows = conn.execute("select count(*) from catalogue.geometrias").fetchone()
        assert rows is not None
        conn.execute("call catalogue.refresh_search_job()")
        assert freshness(conn) == ("unchanged", rows[0], 0, 0)
        conn.execute("update catalogue.geometrias set name = 'Outro nome' where id in (1, 2)")
        conn.execute("call catalogue.refresh_search_job()")
        assert freshness(conn) == ("refreshed", rows[0], 2, 0)


def test_an_hour_without_a_refresh_forces_one(opt5: str) -> None:
    """Rows that came without firing triggers are found within the hour."""
    with connect(opt5, name="test") as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute("update catalogue.geometrias set name = 'Replicado' where id = 1")
        conn.execute("set session_replication_role = origin")
        conn.execute("call catalogue.refresh_search_job()")
        assert freshness(conn)[0] == "unchanged"
        conn.execute("update catalogue.search_freshness set refreshed_at = refreshed_at - interval '61 minutes'")
        conn.execute("call catalogue.refresh_search_job()")
        assert freshness(conn)[0] == "refreshed"
        assert conn.execute("select id from catalogue.rpc_search('Replicado', max_rows => 1)").fetchone() == (1,)


def test_a_run_is_skipped_while_a_change_script_or_another_refresh_is_at_work(opt5: str) -> None:
    """Nothing queues; the skipped runs are counted, and the next one starts at nought."""
    with connect(opt5, name="test") as conn, connect(opt5, name="other") as other:
        other.execute("select comporta.claim('OPT9')")
        conn.execute("call catalogue.refresh_search_job()")
        assert freshness(conn)[0::3] == ("skipped", 1)
        other.execute("select comporta.release('OPT9')")
        other.execute("select pg_advisory_lock(hashtext('comporta'), hashtext('refresh_search'))")
        conn.execute("call catalogue.refresh_search_job()")
        assert freshness(conn)[0::3] == ("skipped", 2)
        other.execute("select pg_advisory_unlock_all()")
        conn.execute("call catalogue.refresh_search_job()")
        assert freshness(conn)[0::3] == ("unchanged", 0)


@pytest.mark.parametrize("role", ["gis_reader", "gis_editor"])
def test_searches_and_writes_go_on_during_a_refresh(busy: Connection, opt5: str, role: str) -> None:
    """A refresh stops nobody, however long it takes."""
    with connect(opt5, name="reader", statement_timeout_ms=5_000) as conn:
        conn.execute(f"set role {role}".encode())
        assert conn.execute("select id from catalogue.rpc_search('Em obras', max_rows => 1)").fetchone() == (1,)
        conn.execute("reset role")
        conn.execute("update catalogue.geometrias set name = 'Em obras também' where id = 2")


def test_rollback_cancels_a_running_refresh(busy: Connection, opt5: str) -> None:
    """The refresh is cancelled, not its session, and the changes that it was to absorb are still answered."""
    run(opt5, ROLLBACK)
    assert not busy.broken
    with connect(opt5, name="test") as conn:
        assert conn.execute("select count(*) from cron.job").fetchone() == (0,)
        assert conn.execute("select id from catalogue.rpc_search('Em obras', max_rows => 1)").fetchone() == (1,)


@pytest.mark.parametrize("script", [APPLY, ROLLBACK], ids=["apply", "rollback"])
def test_a_kill_at_any_statement_converges(opt3: str, script: Path) -> None:
    """Cut anywhere, the script continues; cut anywhere, the rollback clears up. A former job survives all of it."""
    with connect(opt3, name="test") as conn:
        conn.execute("select cron.schedule('comporta_prune_search_runs', '1 2 * * 3', 'select 42')")
    before = traces(opt3)
    for upto in range(1, len(Script.read(script).statements)):
        if script == ROLLBACK:
            run(opt3, APPLY)
        run(opt3, script, upto)
        run(opt3, APPLY)
        run(opt3, VERIFY)
        run(opt3, script, upto)
        run(opt3, ROLLBACK)
        assert traces(opt3) == before


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("select cron.unschedule('comporta_refresh_search')", "expected cron job comporta_refresh_search"),
        ("select cron.unschedule('comporta_prune_search_runs')", "expected cron job comporta_prune_search_runs"),
        ("update cron.job set active = false", "expected active"),
        ("update cron.job set database = 'postgres'", "expected active in database gis"),
        ("update cron.job set command = 'select 1'", "expected cron job"),
        ("drop index catalogue.search_names_id_key", "no valid unique index"),
        ("drop table catalogue.search_freshness", "OPT5 is not in place"),
        (
            "insert into cron.job_run_details (jobid, runid, status, return_message)"
            " select jobid, nextval('cron.runid_seq'), 'failed',"
            " 'connection failed' from cron.job where jobname = 'comporta_refresh_search'",
            "the last run of cron job comporta_refresh_search failed: connection failed",
        ),
    ],
    ids=[
        "no refresh job",
        "no prune job",
        "inactive",
        "elsewhere",
        "other command",
        "no unique index",
        "no freshness",
        "failing",
    ],
)
def test_verify_names_what_is_damaged(opt5: str, damage: str, complaint: str) -> None:
    """Half of OPT5 does not pass for OPT5."""
    with connect(opt5, name="test") as conn:
        conn.execute(damage.encode())
    with pytest.raises(StatementFailed, match=complaint):
        run(opt5, VERIFY)


def test_the_prune_job_forgets_only_old_runs_of_ours(opt5: str) -> None:
    """Its command is run as pg_cron would."""
    with connect(opt5, name="test") as conn:
        conn.execute("select cron.schedule('of_somebody_else', '0 0 1 1 *', 'select 1')")
        conn.execute("""
            insert into cron.job_run_details (jobid, runid, status, end_time)
            select jobid, nextval('cron.runid_seq'), 'succeeded', now() - age
            from cron.job, unnest(array[interval '1 day', interval '8 days']) age""")
        command = conn.execute("select command from cron.job where jobname = 'comporta_prune_search_runs'").fetchone()
        assert command is not None
        conn.execute(command[0].encode())
        left = conn.execute("""
            select j.jobname, count(*) from cron.job_run_details d join cron.job j using (jobid) group by 1 order by 1""")
        assert left.fetchall() == [
            ("comporta_prune_search_runs", 1),
            ("comporta_refresh_search", 1),
            ("of_somebody_else", 2),
        ]


@pytest.mark.timeout(150)
def test_pg_cron_runs_the_job_by_itself(cron: str) -> None:
    """Within the minute the scheduled refresh has absorbed a change, and says so."""
    run(cron, OPT3)
    with connect(cron, name="test") as conn:
        conn.execute("alter database gis set comporta.refresh_schedule = '* * * * *'")
        run(cron, APPLY)
        conn.execute("update catalogue.geometrias set name = 'Pelo relógio' where id = 1")
        wait_until(
            conn,
            "select true from cron.job_run_details d join cron.job j using (jobid)"
            " where j.jobname = 'comporta_refresh_search' and d.status in ('succeeded', 'failed')",
            tries=9_000,
        )
        assert freshness(conn)[0] == "refreshed"
        assert conn.execute("select count(*) from catalogue.search_delta").fetchone() == (0,)
    run(cron, VERIFY)
    run(cron, ROLLBACK)
    with connect(cron, name="test") as conn, pytest.raises(psycopg.errors.UndefinedTable):
        conn.execute("select * from catalogue.search_freshness")
