"""Each signal on a real server: good, bad, and not seen, which is never good. The server is only read."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.postgres.conftest import Servers

from comporta.errors import UnreachableServer
from comporta.health.baseline import Baseline, CanaryBaseline
from comporta.health.sample import Sample
from comporta.health.target import identify_target, measure_baseline, open_target, take_samples
from comporta.local.cluster import find_programs
from comporta.release.health import HealthPlan
from comporta.release.model import Release, load_release

STRANGER = "health_stranger"
TABLE = "catalogue.geometrias"


@pytest.fixture(scope="module")
def shipped() -> Release:
    project = Path(__file__).resolve().parents[2]
    return load_release(project / "config/release.yaml", project / "sql")


@dataclass
class Ground:
    """A target with its superuser's connection, and one look at it after another."""

    dsn: str
    shipped: Release
    owner: psycopg.Connection

    def release(self, **health: Any) -> Release:
        return replace(
            self.shipped,
            health=HealthPlan.model_validate({"canaries": ["by_id"], "canary_role": "gis_reader"} | health),
        )

    def look(self, *, dsn: str | None = None, baseline: Baseline | None = None, **health: Any) -> dict[str, Sample]:
        target = identify_target(self.dsn, HealthPlan())
        samples = take_samples(dsn or self.dsn, target, self.release(**health), baseline)
        return {sample.breaker: sample for sample in samples}

    def see(self, signal: str, *, dsn: str | None = None, baseline: Baseline | None = None, **limit: Any) -> Sample:
        """A sample of one signal, whose section of the release is ``limit``."""
        return self.look(dsn=dsn, baseline=baseline, signals={signal: limit})[signal]

    def until(self, query: str, expected: object = True) -> None:
        """Wait, in the server, until a query says what is expected."""
        for _ in range(2_000):
            row = self.owner.execute(query.encode()).fetchone()
            if row == (expected,):
                return
            self.owner.execute("select pg_sleep(0.005)")
        raise AssertionError(f"{query} never gave {expected}")

    def hide(self, *functions: str) -> str:
        """Conninfo of somebody from whom the server hides these functions, and the statistics of others."""
        for function in functions:
            self.owner.execute(f"revoke execute on function {function} from public".encode())
        self.owner.execute(f"drop role if exists {STRANGER}".encode())
        self.owner.execute(f"create role {STRANGER} login password 'only here' in role gis_reader".encode())
        return make_conninfo(self.dsn, user=STRANGER, password="only here")


@pytest.fixture
def ground(target_dsn: str, shipped: Release) -> Iterator[Ground]:
    owner = psycopg.connect(target_dsn, autocommit=True)
    owner.execute("analyze")
    yield Ground(target_dsn, shipped, owner)
    owner.close()
    with psycopg.connect(target_dsn, autocommit=True) as after:
        after.execute(f"drop role if exists {STRANGER}".encode())


def is_sample(found: Sample, verdict: str, why: str) -> None:
    assert (found.verdict, why in found.why) == (verdict, True), found


# -- canaries: errors and latency ------------------------------------------------------------------------------------


def test_canaries_that_are_answered_are_good(ground: Ground) -> None:
    is_sample(ground.see("errors", at_most=0), "ok", "share of failing canaries: 0, at most 0")
    baseline = measure_baseline(ground.dsn, ground.release(), lambda _: None)
    is_sample(ground.see("latency", baseline=baseline, times=3, floor=60_000), "ok", "at most 6e+04")


def test_canaries_that_fail_are_bad(ground: Ground) -> None:
    found = ground.look(canaries=["by_id", "broken"], queries={"broken": "select 1 / (select 0)"})
    is_sample(found["errors"], "bad", "share of failing canaries (broken: 22012: division by zero): 0.5, at most 0")


def test_a_table_that_is_gone_fails_its_canaries(ground: Ground) -> None:
    ground.owner.execute("alter table catalogue.geometrias rename to elsewhere")
    found = ground.look()
    is_sample(found["errors"], "bad", "42P01")
    is_sample(found["latency"], "no data", "no canary was answered")


def test_canaries_see_what_applications_may_see(ground: Ground) -> None:
    ground.owner.execute("revoke select on catalogue.geometrias from gis_reader")
    is_sample(ground.look()["errors"], "bad", "42501")
    assert ground.look(canary_role=None)["errors"].verdict == "ok"


def test_canaries_slower_than_normal_are_bad(ground: Ground) -> None:
    quick = Baseline("t", {"by_id": CanaryBaseline(20, 1e-6, 1e-6, 0)}, {"errors": 0.0, "latency": 1e-6})
    found = ground.see("latency", baseline=quick, times=3, floor=1e-5)
    is_sample(found, "bad", "at most 1e-05")
    assert (found.runs, found.slow) == (1, 1)


def test_a_canary_into_its_time_out_is_an_error_and_slow(ground: Ground) -> None:
    ground.owner.execute("begin; lock table catalogue.geometrias in access exclusive mode")
    found = ground.look(timeout_ms=20, signals={"latency": {"times": None, "floor": None, "at_most": 10}})
    ground.owner.execute("rollback")
    is_sample(found["errors"], "bad", "57014")
    is_sample(found["latency"], "bad", "p95 of canaries, ms")
    assert found["latency"].slow == 1


@pytest.mark.parametrize(
    ("health", "why"),
    [
        ({"canaries": []}, "the release names no canary"),
        ({"canary_role": "nobody_of_that_name"}, 'role "nobody_of_that_name" does not exist'),
    ],
    ids=["no canary", "no such role"],
)
def test_canaries_that_were_not_run_tell_nothing(ground: Ground, health: dict[str, Any], why: str) -> None:
    found = ground.look(**health)
    is_sample(found["errors"], "no data", why)
    is_sample(found["latency"], "no data", why)


def test_latency_without_a_baseline_or_with_one_that_lacks_a_canary_is_not_known(ground: Ground) -> None:
    is_sample(ground.see("latency", times=3, floor=60_000), "no data", "comporta health baseline")
    other = Baseline("t", {"other": CanaryBaseline(20, 1, 1, 0)}, {"latency": 1.0})
    is_sample(
        ground.see("latency", baseline=other, times=3, floor=60_000), "no data", "the baseline has no time of by_id"
    )


# -- lock waits ------------------------------------------------------------------------------------------------------


@contextmanager
def waiting(ground: Ground) -> Iterator[None]:
    """A session that waits for a lock until the end."""
    with psycopg.connect(ground.dsn) as holder, psycopg.connect(ground.dsn) as waiter:
        holder.execute("lock table catalogue.layers in access exclusive mode")
        thread = threading.Thread(target=waiter.execute, args=("select count(*) from catalogue.layers",))
        thread.start()
        try:
            ground.until(
                "select exists (select from pg_locks where not granted and waitstart < clock_timestamp() - interval '2 ms')"
            )
            yield
        finally:
            holder.rollback()
            thread.join()


def test_nobody_waits_for_a_lock(ground: Ground) -> None:
    is_sample(ground.see("lock_waits", longer_than_ms=1, at_most=0), "ok", "longer than 1 ms: 0, at most 0")


def test_sessions_that_wait_for_a_lock_are_bad_once_they_wait_too_long(ground: Ground) -> None:
    with waiting(ground):
        found = ground.see("lock_waits", longer_than_ms=1, at_most=0)
        is_sample(found, "bad", "longer than 1 ms: 1, at most 0")
        assert found.detail["longest_s"] > 0.001
        is_sample(ground.see("lock_waits", longer_than_ms=3_600_000, at_most=0), "ok", "0, at most 0")
        is_sample(ground.see("lock_waits", longer_than_ms=1, at_most=1), "ok", "1, at most 1")


def test_locks_that_cannot_be_seen_are_no_data(ground: Ground) -> None:
    stranger = ground.hide("pg_lock_status()")
    is_sample(ground.see("lock_waits", dsn=stranger), "no data", "permission denied for function pg_lock_status")


# -- replication -----------------------------------------------------------------------------------------------------


@contextmanager
def slot(ground: Ground, name: str, reserve: bool) -> Iterator[None]:
    ground.owner.execute("select pg_create_physical_replication_slot(%s, %s)", (name, reserve))
    try:
        yield
    finally:
        ground.until(f"select not active from pg_replication_slots where slot_name = '{name}'")
        ground.owner.execute("select pg_drop_replication_slot(%s)", (name,))


def write_wal(ground: Ground) -> None:
    ground.owner.execute("select pg_logical_emit_message(false, 'health', repeat('x', 100000))")
    ground.owner.execute("select pg_switch_wal()")


def test_without_a_standby_and_with_none_expected_lag_is_not_applicable(ground: Ground) -> None:
    is_sample(
        ground.see("replication_lag"), "ok", "not applicable: there is no standby and no slot, and none is expected"
    )


def test_a_slot_that_is_behind_is_bad_when_it_is_too_far(ground: Ground) -> None:
    with slot(ground, "health_behind", reserve=True):
        write_wal(ground)
        found = ground.see("replication_lag", bytes_at_most=1)
        is_sample(found, "bad", "health_behind is")
        assert found.value is not None
        assert found.value > 100_000
        is_sample(ground.see("replication_lag", bytes_at_most=2**40), "ok", "health_behind is")


def test_a_standby_that_is_expected_and_not_there_is_bad(ground: Ground) -> None:
    is_sample(ground.see("replication_lag", expected=["replica"]), "bad", "replica is not there")


def test_a_standby_that_is_expected_and_follows_is_good(ground: Ground, tmp_path: Path) -> None:
    where = conninfo_to_dict(ground.dsn)
    password = str(where.pop("password"))
    where.pop("dbname")
    command = [
        str(find_programs() / "pg_receivewal"),
        "-D",
        str(tmp_path),
        "--no-loop",
        "--synchronous",
        "-S",
        "health_replica",
    ]
    with slot(ground, "health_replica", reserve=True):
        receiver = subprocess.Popen(
            [*command, "-d", make_conninfo("", **where, application_name="replica")],
            env={"PGPASSWORD": password},
            stderr=subprocess.DEVNULL,
        )
        try:
            ground.until(
                "select exists (select from pg_stat_replication where application_name = 'replica' and flush_lsn is not null)"
            )
            found = ground.see("replication_lag", expected=["replica", "health_replica"], bytes_at_most=2**40)
            is_sample(found, "ok", "replica is")
        finally:
            receiver.kill()
            receiver.wait()


def test_a_slot_of_which_the_server_does_not_say_how_far_it_is_tells_nothing(ground: Ground) -> None:
    with slot(ground, "health_unknown", reserve=False):
        is_sample(ground.see("replication_lag"), "no data", "not known how far behind: health_unknown")


def test_replication_that_cannot_be_seen_is_no_data(ground: Ground) -> None:
    is_sample(ground.see("replication_lag", dsn=ground.hide()), "no data", "grant it pg_monitor")


# -- disk ------------------------------------------------------------------------------------------------------------


def test_space_in_the_data_directory_is_good_while_there_is_enough(ground: Ground) -> None:
    found = ground.see("disk", free_share_at_least=0, free_bytes_at_least=1)
    is_sample(found, "ok", "free in the data directory")
    assert found.value is not None
    assert 0 < found.value <= found.detail["all"]


def test_space_that_runs_out_is_bad(ground: Ground) -> None:
    is_sample(ground.see("disk", free_share_at_least=1), "bad", "GiB free in the data directory")
    is_sample(ground.see("disk", free_bytes_at_least=2**60), "bad", "GiB free in the data directory")


def test_space_that_cannot_be_seen_is_no_data(ground: Ground) -> None:
    is_sample(ground.see("disk", dsn=ground.hide()), "no data", "grant it pg_monitor; give health.signals.disk a query")


@pytest.mark.parametrize(
    ("query", "verdict", "why"),
    [
        ("select 50, 100", "ok", "50%"),
        ("select 5, 100", "bad", "5%"),
        ("select 101, 100", "no data", "that cannot be"),
        ("select null, 100", "no data", "one row of two numbers"),
        ("select 50", "no data", "one row of two numbers"),
        ("select 50, 100 where false", "no data", "one row of two numbers"),
        ("select 1 / (select 0), 100", "no data", "division by zero"),
    ],
)
def test_space_can_be_told_by_a_query(ground: Ground, query: str, verdict: str, why: str) -> None:
    is_sample(ground.see("disk", query=query, free_share_at_least=0.1, free_bytes_at_least=0), verdict, why)


def test_what_is_not_watched_is_not_looked_at(ground: Ground) -> None:
    found = ground.look(signals={"disk": {"not_watched": "the disk grows by itself"}})
    assert "disk" not in found
    assert len(found) == 6


# -- dead rows -------------------------------------------------------------------------------------------------------


def kill_rows(ground: Ground, share: float) -> None:
    """Update a share of the rows, and see to it that it is counted."""
    ground.owner.execute("alter table catalogue.geometrias set (autovacuum_enabled = false)")
    ground.owner.execute("select pg_stat_force_next_flush()")
    ground.owner.execute("update catalogue.geometrias set name = name where id %% 100 < %s", (int(share * 100),))
    ground.until("select n_dead_tup > 0 from pg_stat_all_tables where relid = 'catalogue.geometrias'::regclass")


def test_a_table_with_few_dead_rows_is_good(ground: Ground) -> None:
    is_sample(ground.see("dead_tuples", at_most=0.2), "ok", f"share of dead rows in {TABLE}: 0, at most 0.2")


def test_a_table_with_many_dead_rows_is_bad(ground: Ground) -> None:
    kill_rows(ground, 0.6)
    is_sample(ground.see("dead_tuples", at_most=0.2), "bad", f"share of dead rows in {TABLE}: 0.3")
    few = ground.see("dead_tuples", at_most=0.2, min_rows=1_000_000)
    is_sample(few, "ok", "0, at most 0.2")


def test_dead_rows_of_partitions_count(ground: Ground) -> None:
    kill_rows(ground, 0.6)
    ground.owner.execute("alter table catalogue.geometrias rename to geometrias_1")
    ground.owner.execute("create table catalogue.geometrias (like catalogue.geometrias_1) partition by list (layer)")
    ground.owner.execute("alter table catalogue.geometrias attach partition catalogue.geometrias_1 default")
    is_sample(ground.see("dead_tuples", at_most=0.2), "bad", f"share of dead rows in {TABLE}: 0.3")


def test_dead_rows_count_where_a_change_put_them(ground: Ground) -> None:
    """A view may stand under the name of the table."""
    kill_rows(ground, 0.6)
    ground.owner.execute("alter table catalogue.geometrias rename to geometrias_stored")
    ground.owner.execute("create view catalogue.geometrias as select * from catalogue.geometrias_stored")
    ground.owner.execute(
        "insert into comporta.storage values ('catalogue.geometrias', 'catalogue.geometrias_stored', 'OPT2')"
    )
    is_sample(ground.see("dead_tuples", at_most=0.2), "bad", f"share of dead rows in {TABLE}: 0.3")


@pytest.mark.parametrize(
    "trouble",
    ["alter table catalogue.geometrias rename to elsewhere", "select pg_stat_reset()"],
    ids=["no such table", "statistics were reset"],
)
def test_dead_rows_that_nobody_counted_are_no_data(ground: Ground, trouble: str) -> None:
    ground.owner.execute(trouble.encode())
    is_sample(
        ground.see("dead_tuples", at_most=0.2),
        "no data",
        f"{TABLE}: there is no such table, or its rows were not counted",
    )


def test_statistics_are_known_again_after_an_analyze(ground: Ground) -> None:
    ground.owner.execute("select pg_stat_reset()")
    ground.owner.execute("analyze catalogue.geometrias")
    ground.owner.execute("select pg_stat_force_next_flush()")
    assert ground.see("dead_tuples", at_most=0.2).verdict == "ok"


def test_a_release_that_names_no_table_has_no_data_on_dead_rows(ground: Ground) -> None:
    bare = replace(ground.release(), changes=tuple(replace(each, tables=()) for each in ground.shipped.changes))
    target = identify_target(ground.dsn, HealthPlan())
    (found,) = (each for each in take_samples(ground.dsn, target, bare, None) if each.breaker == "dead_tuples")
    is_sample(found, "no data", "the release names no table")


# -- connections -----------------------------------------------------------------------------------------------------


def test_few_connections_are_good_and_many_are_bad(ground: Ground) -> None:
    is_sample(ground.see("connections", at_most=0.5), "ok", "share of the 120 connections in use")
    opened = [psycopg.connect(ground.dsn) for _ in range(12)]
    found = ground.see("connections", at_most=0.1)
    for each in opened:
        each.close()
    is_sample(found, "bad", "at most 0.1")
    assert found.detail["used"] > 12


def test_connections_that_cannot_be_counted_are_no_data(ground: Ground) -> None:
    stranger = ground.hide("pg_stat_get_db_numbackends(oid)")
    is_sample(ground.see("connections", dsn=stranger), "no data", "permission denied")


# -- any SQL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "verdict", "why"),
    [
        ("select 5", "ok", "queue: 5, at most 5"),
        ("select 4.5::numeric", "ok", "queue: 4.5, at most 5"),
        ("select 6", "bad", "queue: 6, at most 5"),
        ("select null::int", "no data", "did not give one number but null"),
        ("select 1 where false", "no data", "0 rows"),
        ("select generate_series(1, 2)", "no data", "2 rows"),
        ("select 1, 2", "no data", "2 column(s)"),
        ("select 'many'", "no data", "str"),
        ("select true", "no data", "bool"),
        ("select 'nan'::float8", "no data", "unknown"),
        ("select 'infinity'::float8", "no data", "unknown"),
        ("select 1 from no_such_table", "no data", "does not exist"),
        ("select 1 from pg_sleep(60)", "no data", "statement timeout"),
    ],
)
def test_any_query_of_the_release_is_a_signal(ground: Ground, query: str, verdict: str, why: str) -> None:
    found = ground.look(timeout_ms=100, signals={"sql": {"queue": {"query": query, "at_most": 5}}})["queue"]
    is_sample(found, verdict, why)


def test_a_query_can_be_held_against_what_was_normal(ground: Ground) -> None:
    signals = {"sql": {"queue": {"query": "select 31", "times": 3, "floor": 1}}}
    assert ground.look(signals=signals)["queue"].verdict == "no data"
    normal = Baseline("t", {}, {"queue": 10.0})
    is_sample(ground.look(signals=signals, baseline=normal)["queue"], "bad", "31, at most 30")


# -- the whole target ------------------------------------------------------------------------------------------------


def test_an_absent_target_is_no_data_for_every_signal(ground: Ground, servers: Servers) -> None:
    target = identify_target(ground.dsn, HealthPlan())
    servers.target.stop("immediate")
    try:
        samples = take_samples(ground.dsn, target, ground.release(), None)
        with pytest.raises(UnreachableServer):
            measure_baseline(ground.dsn, ground.release(), lambda _: None)
    finally:
        servers.target.start()
    assert {each.verdict for each in samples} == {"no data"}
    assert [each.breaker for each in samples] == list(ground.release().health.signals.names)
    assert all("cannot connect" in each.why for each in samples)


def test_another_server_in_the_targets_place_is_no_data(ground: Ground) -> None:
    samples = take_samples(ground.dsn, "4711/gis", ground.release(), None)
    assert {each.verdict for each in samples} == {"no data"}
    assert "expected the target 4711/gis, found" in samples[0].why


def test_a_connection_that_is_lost_half_way_is_no_data_from_there_on(ground: Ground) -> None:
    found = ground.look(
        canaries=["dies"], queries={"dies": "select pg_terminate_backend(pg_backend_pid())"}, canary_role=None
    )
    assert found["connections"].verdict == "ok"
    assert (found["errors"].verdict, found["latency"].verdict) == ("no data", "no data")


WRITES = "create function public.writes() returns bigint language sql as $$ insert into public.written values (1) returning n $$"
FREES = "select set_config('default_transaction_read_only', 'off', false)"
UNDONE: dict[str, tuple[str, str]] = {
    "a function that writes": ("select 1", "select public.writes()"),
    "one that asks to write first": (
        "select 1",
        "select set_config('transaction_read_only', 'off', false), public.writes()",
    ),
    "as somebody else": ("select set_config('role', 'postgres', false)", "select public.writes()"),
    "in a session that was freed before": (FREES, "select public.writes()"),
}


@pytest.mark.parametrize(("first", "then"), UNDONE.values(), ids=list(UNDONE))
def test_neither_canary_nor_signal_can_write(ground: Ground, first: str, then: str) -> None:
    ground.owner.execute("create table public.written (n bigint)")
    ground.owner.execute(WRITES.encode())
    ground.owner.execute("grant all on public.written to public")
    counted = {name: f"select count(*) from ({query}) as q" for name, query in (("first", first), ("then", then))}
    found = ground.look(
        canaries=["first", "then"],
        queries={"first": first, "then": then},
        canary_role=None,
        signals={"sql": {name: {"query": query, "at_most": 1} for name, query in counted.items()}},
    )
    assert ground.owner.execute("select count(*) from public.written").fetchone() == (0,)
    assert list(found["errors"].detail["failed"]) == ["then"]
    assert "transaction" in found["errors"].why
    is_sample(found["first"], "ok", "first: 1")
    is_sample(found["then"], "no data", "transaction")


def test_the_connection_itself_only_reads(ground: Ground) -> None:
    with open_target(ground.dsn, HealthPlan()) as conn, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        conn.execute("create table public.written (n bigint)")


# -- the baseline ----------------------------------------------------------------------------------------------------


def test_a_baseline_has_every_canary_and_every_signal(ground: Ground) -> None:
    release = ground.release(canaries=["by_id", "broken"], queries={"broken": "select 1 / (select 0)"}, baseline_runs=5)
    said: list[str] = []
    found = measure_baseline(ground.dsn, release, said.append)
    assert found.target == identify_target(ground.dsn, HealthPlan())
    by_id, broken = found.canaries["by_id"], found.canaries["broken"]
    assert (by_id.n, by_id.errors) == (5, 0)
    assert by_id.p50_ms is not None
    assert by_id.p95_ms is not None
    assert 0 < by_id.p50_ms <= by_id.p95_ms
    assert (broken.n, broken.errors, broken.p95_ms) == (5, 5, None)
    assert set(found.signals) == set(release.health.signals.names)
    assert (found.signals["errors"], found.signals["lock_waits"]) == (0.5, 0)
    assert len(said) == 1
