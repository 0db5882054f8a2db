"""Plans compare by their shape: numbers play no part, and partitions that are run alike are one line."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import psycopg
import pytest

from comporta.dryrun.probes import Probe, probe_queries
from comporta.postgres.connection import Connection

Plan = dict[str, Any]


def node(kind: str, *children: Plan, **more: Any) -> Plan:
    plan = {"Node Type": kind, "Total Cost": 12.5, **{key.replace("_", " "): value for key, value in more.items()}}
    return {**plan, "Plans": list(children)} if children else plan


def scan(name: str, kind: str = "Seq Scan") -> Plan:
    return node(kind, Relation_Name=name)


class Answer:
    """The rows of one statement."""

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self.rows = rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    def fetchone(self) -> tuple[Any, ...]:
        return self.rows[0]


class FakeServer:
    """Answers queries with two rows and EXPLAIN with the plan given; keeps what was asked."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.asked: list[str] = []

    def transaction(self) -> AbstractContextManager[None]:
        return nullcontext()

    def execute(self, sql: str, _parameters: Any = None) -> Answer:
        self.asked.append(sql)
        if "absent" in sql:
            raise psycopg.errors.UndefinedTable('relation "absent" does not exist')
        return Answer([([{"Plan": self.plan}],)] if sql.startswith("explain") else [(1,), (2,)])


def probe(plan: Plan, sql: str = "select 1") -> Probe:
    [found] = probe_queries(cast("Connection", FakeServer(plan)), {"one": sql}, runs=3)
    return found


def test_a_plan_is_read_as_indented_names() -> None:
    plan = node("Aggregate", node("Index Scan", Relation_Name="geometrias", Index_Name="geometrias_pkey"))
    assert probe(plan).plan == ("Aggregate", "  Index Scan geometrias geometrias_pkey")


def test_a_function_and_a_common_table_are_named() -> None:
    plan = node("Nested Loop", node("Function Scan", Function_Name="rpc_search"), node("CTE Scan", CTE_Name="recent"))
    assert probe(plan).plan[1:] == ("  Function Scan rpc_search", "  CTE Scan recent")


@pytest.mark.parametrize("kind", ["Append", "Merge Append"])
def test_many_partitions_are_folded_into_one_line_with_their_kinds(kind: str) -> None:
    parts = [scan(f"geometrias_{year}") for year in range(2015, 2028)] + [
        scan("geometrias_default", "Bitmap Heap Scan")
    ]
    assert probe(node("Limit", node(kind, *parts))).plan == (
        "Limit",
        f"  {kind}",
        "    14 parts: Bitmap Heap Scan, Seq Scan",
    )


def test_three_partitions_are_still_named() -> None:
    plan = probe(node("Append", scan("a"), scan("b"), scan("c"))).plan
    assert plan == ("Append", "  Seq Scan a", "  Seq Scan b", "  Seq Scan c")


def test_many_children_of_another_node_are_not_folded() -> None:
    assert len(probe(node("BitmapOr", *(scan(name) for name in "abcde"))).plan) == 6


def test_plans_of_one_shape_have_one_digest_whatever_their_numbers() -> None:
    one, other = (
        scan("a") | {"Actual Rows": 1},
        scan("a") | {"Total Cost": 99.0, "Shared Hit Blocks": 7, "Shared Read Blocks": 2},
    )
    assert probe(one).plan_digest == probe(other).plan_digest
    assert probe(one).plan_digest != probe(scan("b")).plan_digest
    assert (probe(other).cost, probe(other).buffers) == (99.0, 9)


def test_a_query_runs_once_to_warm_up_and_then_as_often_as_asked_read_only() -> None:
    server = FakeServer(scan("a"))
    [found] = probe_queries(cast("Connection", server), {"one": "select 1"}, runs=3)
    assert server.asked.count("select 1") == 1 + 3
    assert server.asked[0] == "set transaction read only"
    assert (len(found.seconds), found.rows, found.error) == (3, 2, None)


def test_a_query_that_fails_is_told_and_the_others_are_measured() -> None:
    queries = {"gone": "select * from absent", "there": "select 1"}
    gone, there = probe_queries(cast("Connection", FakeServer(scan("a"))), queries, runs=1)
    assert (gone.error or "").startswith("42P01: ")
    assert gone.seconds == ()
    assert there.error is None


def test_the_median_is_of_the_runs_in_milliseconds() -> None:
    found = Probe("one", "select 1", (0.004, 0.001, 0.2), 1, (), "", 0.0, 0)
    assert found.median_ms == pytest.approx(4.0)
    assert found.to_dict()["median_ms"] == found.median_ms
