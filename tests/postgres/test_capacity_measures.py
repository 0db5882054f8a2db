"""What STAGE 4 reads from servers, on real ones: the load and its mix, the clone that grows, the target, the states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from comporta.capacity.measures.clone import grow, load_variables
from comporta.capacity.measures.mix import FEWEST_CALLS, recorded_mix
from comporta.capacity.measures.state import interval_s, planning_ladder, state_facts
from comporta.capacity.measures.target import target_facts
from comporta.capacity.measures.transaction import LoadNotRead, Transaction, read_transactions
from comporta.capacity.pgbench import Load, WeightedScript, Window, run_load
from comporta.demo.use import record_use
from comporta.errors import ConfigurationError, StatementFailed
from comporta.postgres.connection import connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.release.model import Release, load_release

PROJECT = Path(__file__).resolve().parents[2]
LOAD = PROJECT / "sql" / "capacity" / "load"
GROW = Script.read(PROJECT / "sql" / "capacity" / "grow.sql")
SCRIPTS = tuple(WeightedScript(path.stem, path, 1.0) for path in sorted(LOAD.glob("*.sql")))
READS = {"read_id", "read_window", "read_map", "read_published", "search"}
TABLES = ("geometrias", "annotations", "inspections", "edits")


@pytest.fixture(scope="module")
def release() -> Release:
    return load_release(PROJECT / "config" / "release.yaml", PROJECT / "sql")


@pytest.fixture
def history(release: Release) -> dict[str, str]:
    return dict(release.capacity.history)


def some_load(dsn: str, history: dict[str, str], *, clients: int = 4, seconds: float = 1.0, seed: int = 1) -> Load:
    variables, _ = load_variables(dsn, history)
    return run_load(
        dsn, SCRIPTS, clients=clients, window=Window(0, seconds), longest_s=20, seed=seed, variables=variables
    )


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(query.encode()).fetchall()


def counts(dsn: str) -> dict[str, int]:
    return {table: rows(dsn, f"select count(*) from catalogue.{table}")[0][0] for table in TABLES}


def indexes(dsn: str) -> set[tuple[Any, ...]]:
    return set(
        rows(
            dsn,
            "select indexrelid::regclass::text, pg_get_indexdef(indexrelid), obj_description(indexrelid, 'pg_class')"
            " from pg_index join pg_class on pg_class.oid = indrelid where relnamespace = 'catalogue'::regnamespace",
        )
    )


# -- the load ------------------------------------------------------------------------------------------------------------


def test_no_transaction_of_the_load_fails_before_the_release_or_after_any_change(
    catalogue: str, release: Release, history: dict[str, str]
) -> None:
    """Every kind is answered in every state, with more clients than the machine has processors."""
    states = {"before": some_load(catalogue, history, clients=8)}
    for change in release.changes:
        with connect(catalogue, name="test") as conn:
            run_script(conn, change.apply)
        states[change.name] = some_load(catalogue, history, clients=8)
    assert {state: load.failed for state, load in states.items()} == dict.fromkeys(states, 0)
    assert {state for state, load in states.items() if set(load.calls) != {script.name for script in SCRIPTS}} == set()


def test_a_load_takes_away_only_rows_that_it_added(catalogue: str, history: dict[str, str]) -> None:
    """What stood before stays, so that no later draw of an id misses."""
    before = rows(catalogue, "select min(id), max(id), count(*) from catalogue.geometrias")
    some_load(catalogue, history)
    low, high, _ = before[0]
    assert rows(
        catalogue, f"select min(id), {high}, count(*) from catalogue.geometrias where id between {low} and {high}"
    ) == (before)


@pytest.mark.parametrize("name", [script.name for script in SCRIPTS])
def test_a_transaction_run_by_hand_ends_in_the_statement_that_it_is_for(
    name: str, catalogue: str, history: dict[str, str]
) -> None:
    """Read as pgbench reads it: values are put in, branches taken, rows become variables."""
    transaction = Transaction.read(LOAD / f"{name}.sql")
    variables, _ = load_variables(catalogue, history)
    with connect(catalogue, name="test") as conn, conn.transaction(force_rollback=True):
        sent = transaction.run(conn, variables)
        assert ":" not in sent[-1].replace("::", "")
        assert sent[0].startswith("set role")
    assert transaction.reads_only is (name in READS)


def test_two_transactions_for_one_statement_are_refused(tmp_path: Path) -> None:
    """Its recorded calls could be told by neither."""
    for name, value in (("one", "1"), ("two", ":id")):
        (tmp_path / f"{name}.sql").write_text(
            f"\\set id 2\nselect name from catalogue.layers where code = '{value}';\n"
        )
    with pytest.raises(LoadNotRead, match=r"one\.sql and two\.sql end in the same statement"):
        read_transactions(tmp_path)


# -- growth --------------------------------------------------------------------------------------------------------------


def test_a_clone_grows_in_proportion_and_keeps_its_indexes(catalogue: str, history: dict[str, str]) -> None:
    """Twice the rows of every table, ids without a gap, valid outlines, statistics up to date."""
    some_load(catalogue, history, clients=1, seconds=0.5)
    kept = indexes(catalogue)
    high = rows(catalogue, "select max(id) from catalogue.geometrias")[0][0]
    before = counts(catalogue)
    grow(catalogue, GROW, 2)
    after = counts(catalogue)
    assert indexes(catalogue) == kept
    assert after["geometrias"] == 2 * before["geometrias"]
    assert after["annotations"] == 2 * before["annotations"]
    assert after["inspections"] == 2 * before["inspections"]
    assert before["edits"] < after["edits"] <= 2 * before["edits"]
    new = rows(
        catalogue, f"select min(id), max(id), bool_and(st_isvalid(geom)) from catalogue.geometrias where id > {high}"
    )
    assert new == [(high + 1, high + before["geometrias"], True)]
    assert rows(catalogue, "select nextval(pg_get_serial_sequence('catalogue.geometrias', 'id'))") == [(new[0][1] + 1,)]
    assert rows(catalogue, "select reltuples from pg_class where oid = 'catalogue.geometrias'::regclass") == [
        (after["geometrias"],)
    ]
    assert some_load(catalogue, history).failed == 0


@pytest.mark.parametrize("times", [0.5, 1.5], ids=["half", "half more"])
def test_a_clone_takes_any_size(times: float, catalogue: str) -> None:
    """By chance, so to a few rows in a hundred; what refers to rows that are gone goes with them."""
    before, kept = counts(catalogue), indexes(catalogue)
    grow(catalogue, GROW, times)
    after = counts(catalogue)
    assert after["geometrias"] == pytest.approx(times * before["geometrias"], rel=0.05)
    assert after["annotations"] == pytest.approx(times * before["annotations"], rel=0.15)
    assert indexes(catalogue) == kept
    assert rows(
        catalogue,
        "select count(*) from catalogue.annotations a left join catalogue.geometrias g on g.id = geometria_id where g.id is null",
    ) == [(0,)]


def test_a_clone_on_which_a_change_stands_does_not_grow(catalogue: str, release: Release) -> None:
    """Its rows lie elsewhere by then."""
    with connect(catalogue, name="test") as conn:
        run_script(conn, release.changes[0].apply)
    with pytest.raises(StatementFailed, match="no change stands, found OPT1"):
        grow(catalogue, GROW, 2)


# -- the mix -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def used_target(target_dsn: str) -> Iterator[str]:
    record_use(target_dsn, seconds=3)
    yield target_dsn
    with psycopg.connect(target_dsn, autocommit=True) as conn:
        conn.execute("select pg_stat_statements_reset()")


def test_the_mix_is_that_of_the_recorded_calls(used_target: str, release: Release) -> None:
    """What people did is told by the load's transactions, in their shares, and almost all of it."""
    mix = recorded_mix(used_target, LOAD, release.capacity.shares, own_queries=release.canaries.values())
    weights = {each.name: each.weight for each in mix.transactions}
    assert mix.recorded
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["read_id"] == pytest.approx(0.26, abs=0.08)
    assert set(weights) >= set(release.capacity.shares) - {"search", "delete"}
    assert mix.covered_calls > 0.97
    assert mix.calls_per_s is not None
    assert mix.calls_per_s > 0
    assert not any("comporta" in text for text in mix.missing)


def test_what_no_transaction_stands_for_is_named(used_target: str, release: Release) -> None:
    """The costliest first; what the keepers of the server send, and Comporta's canaries, are nobody's use."""
    with psycopg.connect(used_target, autocommit=True) as conn:
        conn.execute("select count(*) from catalogue.inspections, catalogue.layers")
        conn.execute("set role gis_reader")
        conn.execute("select count(*) from catalogue.annotations where body like 'Topônimo%'")
        for query in release.canaries.values():
            conn.execute(query.encode())
    mix = recorded_mix(used_target, LOAD, {}, own_queries=release.canaries.values())
    assert [text for text in mix.missing if "catalogue.annotations" in text]
    assert not [text for text in mix.missing if "inspections, catalogue.layers" in text or "layer_title, count" in text]


def test_without_recorded_calls_the_shares_of_the_release_stand_in(target_dsn: str, release: Release) -> None:
    """And the mix says so."""
    with psycopg.connect(target_dsn, autocommit=True) as conn:
        conn.execute("select pg_stat_statements_reset()")
        conn.execute("set role gis_reader")
        for id_ in range(FEWEST_CALLS - 1):
            conn.execute(
                "select id, layer, name, geom, properties, data_referencia from catalogue.geometrias where id = %s",
                (id_,),
            )
    mix = recorded_mix(target_dsn, LOAD, release.capacity.shares)
    whole = sum(release.capacity.shares.values())
    assert not mix.recorded
    assert mix.calls_per_s is None
    assert {each.name: each.weight for each in mix.transactions} == {
        name: pytest.approx(share / whole) for name, share in release.capacity.shares.items()
    }
    with pytest.raises(ConfigurationError, match=r"capacity\.shares names dance"):
        recorded_mix(target_dsn, LOAD, {"dance": 1})


# -- the target ----------------------------------------------------------------------------------------------------------


def test_the_target_tells_its_history_sizes_and_limits(used_target: str, servers: Any, release: Release) -> None:
    """Every row of every table is in its month, and everything that holds bytes is in the sizes."""
    facts = target_facts(used_target, servers.shadow.dsn, release.capacity, connections_seen=[77])
    histories = {history.table: history for history in facts.histories}
    now = counts(used_target)
    assert {table: history.rows for table, history in histories.items()} == {
        f"catalogue.{table}": now[table] for table in ("geometrias", "annotations", "edits")
    }
    geometrias = histories["catalogue.geometrias"]
    assert sum(month.rows for month in geometrias.months) == geometrias.rows
    assert {month.partition for month in geometrias.months} == {str(year) for year in range(2015, 2029)}
    assert {month.partition for month in histories["catalogue.edits"].months} == {None}
    assert {each.table for each in facts.relations} >= {f"catalogue.{table}" for table in TABLES}
    assert sum(each.bytes for each in facts.relations) < facts.database_bytes <= facts.cluster_bytes
    assert facts.disk_total_bytes is not None
    assert facts.disk_free_bytes is not None
    assert facts.disk_free_bytes < facts.disk_total_bytes
    assert facts.memory_bytes is not None
    assert facts.connections_peak == 77
    assert facts.wal_bytes_per_s is not None
    assert facts.wal_bytes_per_s > 0
    assert facts.settings_unlike_shadow["synchronous_commit"] == ("off", "on")
    assert "shared_buffers" not in facts.settings_unlike_shadow
    assert facts.partition_horizon_years is None


@pytest.mark.parametrize(
    ("history", "named"),
    [
        ({"catalogue.nothing": "created_at"}, "catalogue.nothing, which is not"),
        ({"catalogue.edits": "born"}, "no such column"),
    ],
    ids=["table", "column"],
)
def test_a_history_of_what_is_not_there_is_refused_by_name(
    history: dict[str, str], named: str, target_dsn: str, servers: Any, release: Release
) -> None:
    """Nothing is made up for it."""
    with pytest.raises(ConfigurationError, match=named):
        target_facts(target_dsn, servers.shadow.dsn, release.capacity.model_copy(update={"history": history}))


# -- the states ----------------------------------------------------------------------------------------------------------


def test_a_state_tells_sizes_refreshes_planning_and_memory(
    catalogue: str, release: Release, history: dict[str, str]
) -> None:
    """Before the release there is nothing to refresh; after it the view, its schedule, the partitions and what was set aside."""
    before = state_facts(catalogue, state="before", size=1, history=history, scripts=SCRIPTS)
    for change in release.changes:
        with connect(catalogue, name="test") as conn:
            run_script(conn, change.apply)
    with connect(catalogue, name="test") as conn:
        conn.execute("vacuum (analyze)")
    after = state_facts(catalogue, state="OPT5", size=1, history=history, scripts=SCRIPTS, planning=True)
    geometrias = rows(catalogue, "select count(*) from catalogue.geometrias")[0][0]

    assert before.refreshes == ()
    assert [each.partitions for each in before.planning] == [0]
    assert before.rows == after.rows
    (refresh,) = after.refreshes
    assert (refresh.view, refresh.rows) == ("catalogue.search_names", geometrias)
    assert (refresh.schedule, refresh.interval_s) == ("*/5 * * * *", 300.0)
    assert [each.partitions for each in after.planning][1:] == [64, 128, 256]
    assert all(each.query in READS and each.median_ms > 0 for each in after.planning)
    assert before.connection_bytes is not None
    assert after.connection_bytes is not None
    assert after.connection_bytes > before.connection_bytes > 2**20
    kinds = {each.kind for each in after.relations if each.table == "catalogue.geometrias"}
    assert kinds == {"table", "partition", "index"}
    assert {each.table for each in after.relations if each.name.startswith("comporta_")} == {"catalogue.geometrias"}
    assert ("catalogue.search_names", "view") in {(each.table, each.kind) for each in after.relations}


def test_planning_with_many_partitions_leaves_nothing_on_the_clone(
    catalogue: str, release: Release, history: dict[str, str]
) -> None:
    """The years that were added for it are gone."""
    with connect(catalogue, name="test") as conn:
        run_script(conn, release.changes[0].apply)
    variables, _ = load_variables(catalogue, history)
    relations = "select count(*) from pg_class"
    before = rows(catalogue, relations)
    found = planning_ladder(catalogue, history, read_transactions(LOAD), variables, counts=(1, 20, 40))
    assert [each.partitions for each in found] == [20, 40]
    assert rows(catalogue, relations) == before


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [
        ("*/5 * * * *", 300),
        ("23 2 * * *", 86_400),
        ("0 9-17 * * 1-5", 3600),
        ("30 seconds", 30),
        ("0 1 $ * *", 28 * 86_400),
        ("now", None),
    ],
)
def test_the_interval_of_a_schedule_is_its_shortest(schedule: str, seconds: float | None) -> None:
    """A refresh must be done before the next one begins."""
    assert interval_s(schedule) == seconds


def test_a_script_without_a_statement_is_refused(tmp_path: Path) -> None:
    """pgbench would count transactions that do nothing."""
    (tmp_path / "idle.sql").write_text("\\set id 1\n")
    with pytest.raises(LoadNotRead, match="no statement"):
        state_facts("", state="before", size=1, history={}, scripts=[SimpleNamespace(path=tmp_path / "idle.sql")])
