"""Hazards are found by reading a script and its measurement; what behaves is left in peace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comporta.dryrun.hazards import CHECKLIST, Hazard, coverage, find_hazards, verdict, verdict_of
from comporta.dryrun.locks import ACCESS_EXCLUSIVE, LockHold, LockWait, TraceQuality
from comporta.dryrun.measure import (
    CatalogueSnapshot,
    RelationSize,
    Rewrite,
    ScriptMeasurement,
    StatementError,
    StatementMeasurement,
)
from comporta.postgres.script import Script
from comporta.proof.fingerprint import Difference
from comporta.release.model import Budget

GEOMETRIAS = RelationSize(
    oid=100, schema="catalogue", name="geometrias", kind="r", bytes=50_000_000, total_bytes=80_000_000,
    rows_estimate=100_000, dead_rows=0, analyzed=True, valid=None, belongs_to=0, parent=0,
    replica_identity="primary key", published=True, is_default=False,
)  # fmt: skip
INDEX = replace(GEOMETRIAS, oid=101, name="geometrias_idx", kind="i", valid=True, belongs_to=100, published=False)
BEFORE = CatalogueSnapshot(1_000_000_000, (GEOMETRIAS, INDEX), (), {})


def script(text: str) -> Script:
    return Script.parse(text.encode(), Path("trial.sql"))


def hold(seconds: float, **changes: Any) -> LockHold:
    plain = LockHold(
        pid=1, oid=100, relation="catalogue.geometrias", mode=ACCESS_EXCLUSIVE, first_seen=1000.0,
        last_seen=1000.0 + seconds, seconds=seconds, seconds_min=seconds, seconds_max=seconds, waited_seconds=0.0,
        application="comporta/trial", statement_number=1, exact=True,
    )  # fmt: skip
    return replace(plain, **changes)


def wait(seconds: float, **changes: Any) -> LockWait:
    plain = LockWait(
        pid=2, application="app", oid=100, relation="catalogue.geometrias", mode="AccessShareLock", since=1000.0,
        until=1000.0 + seconds, seconds=seconds, behind=(1,), behind_applications=("comporta/trial",),
    )  # fmt: skip
    return replace(plain, **changes)


def measured(of: Script, *, statement: dict[str, Any] | None = None, **changes: Any) -> ScriptMeasurement:
    """A quiet run of every statement; ``statement`` changes the first."""
    statements = tuple(
        StatementMeasurement(
            number=each.number, line=each.line, headline=each.headline, kind=each.kind, started_at=1000.0 + each.number,
            seconds=0.01, rows=0, status="", transaction="own", lock_timeout_ms=100, locks=(), rewrites=(), wal_bytes=0,
            wal_source="session", temp_bytes=0, notices=(),
        )
        for each in of.statements
    )  # fmt: skip
    first = replace(statements[0], started_at=1000.0, **(statement or {}))
    plain = ScriptMeasurement(
        path="trial.sql", stem="trial", sha256="0", role="apply", pid=1, started_at=1000.0, seconds=1.0,
        statements=(first, *statements[1:]), not_run=(), waits_caused=(), own_waits=(),
        trace=TraceQuality(900, 1.0, 1.1, 2.0, 3.0, 0, complete=True), wal_bytes=0, temp_bytes=0,
        peak_database_bytes=0, peak_temp_bytes=0, peak_wal_folder_bytes=0, before=BEFORE, after=BEFORE,
    )  # fmt: skip
    return replace(plain, **changes)


def found(hazards: list[Hazard]) -> set[tuple[str, str]]:
    return {(hazard.code, hazard.severity) for hazard in hazards}


BY_READING = [
    ("create index on catalogue.geometrias (name)", "H05", "stop"),
    ("reindex table catalogue.geometrias", "H05", "stop"),
    ("refresh materialized view catalogue.names", "H05", "stop"),
    ("drop index catalogue.geometrias_idx", "H05", "warn"),
    ("begin; create index concurrently on catalogue.geometrias (name); commit", "H06", "stop"),
    ("set lock_timeout = '1s'; create index concurrently on catalogue.geometrias (name)", "H03", "stop"),
    ("set lock_timeout to 500; drop index concurrently catalogue.geometrias_idx", "H03", "stop"),
    ("alter table catalogue.geometrias alter column name type varchar(10)", "H07", "stop"),
    ("alter table catalogue.geometrias set tablespace other", "H07", "stop"),
    ("vacuum full catalogue.geometrias", "H07", "stop"),
    ("alter table catalogue.geometrias add constraint c check (id > 0)", "H08", "stop"),
    ("alter table catalogue.geometrias add foreign key (layer) references catalogue.layers", "H08", "stop"),
    ("alter table catalogue.geometrias add unique (name)", "H08", "stop"),
    ("alter table catalogue.geometrias alter column name set not null", "H08", "warn"),
    ("update catalogue.geometrias set name = 'x'", "H09", "warn"),
    ("alter table catalogue.geometrias add column a int", "H17", "note"),
    ("alter table catalogue.geometrias attach partition catalogue.p for values in (1)", "H19", "warn"),
    ("alter table catalogue.geometrias detach partition catalogue.p", "H19", "warn"),
    ("drop table catalogue.geometrias", "H25", "stop"),
    ("alter table catalogue.geometrias rename to other", "H25", "stop"),
    ("alter table catalogue.geometrias drop column name", "H25", "stop"),
    ("truncate catalogue.geometrias", "H25", "stop"),
    ("alter type mood add value 'calm'", "H29", "warn"),
    ("alter extension postgis update", "H29", "warn"),
    ("create table t (id serial primary key)", "H29", "note"),
    ("create function f() returns int language sql security definer as 'select 1'", "H30", "warn"),
    ("create view v as select 1", "H30", "note"),
]


@pytest.mark.parametrize(("text", "code", "severity"), BY_READING, ids=[text[:60] for text, *_ in BY_READING])
def test_reading_alone_finds(text: str, code: str, severity: str) -> None:
    assert (code, severity) in found(find_hazards(script(text), None))


HARMLESS = [
    "create index concurrently geometrias_name_idx on catalogue.geometrias (name)",
    "set lock_timeout = '1s'; set lock_timeout = 0; create index concurrently a on catalogue.geometrias (name)",
    "set lock_timeout = '1s'; set lock_timeout = '30min'; create index concurrently a on catalogue.geometrias (name)",
    "create table catalogue.fresh (id bigint primary key); create index on catalogue.fresh (id); drop table catalogue.fresh",
    "create schema aside; create table aside.t (a int); alter table aside.t add check (a > 0), alter column a type bigint",
    "alter table catalogue.geometrias add constraint c check (id > 0) not valid",
    "alter table catalogue.geometrias add constraint u unique using index geometrias_idx",
    "alter table catalogue.geometrias detach partition catalogue.p concurrently",
    "update catalogue.geometrias set name = 'x' where id = 1",
    "refresh materialized view concurrently catalogue.names",
    "create function f() returns int language sql security definer set search_path = pg_catalog as 'select 1'",
    "create function f() returns int language sql security invoker as 'select 1'",
    "create view v with (security_invoker = true) as select 1",
    "call comporta.with_lock(array['catalogue.geometrias'], 'alter table catalogue.geometrias add column a int')",
    "select comporta.claim('OPT1')",
]


@pytest.mark.parametrize("text", HARMLESS, ids=[text[:60] for text in HARMLESS])
def test_reading_alone_leaves_in_peace(text: str) -> None:
    assert find_hazards(script(text), None) == []


@pytest.mark.parametrize(
    ("seconds", "severity"),
    [(0.01, None), (0.06, "warn"), (0.21, "stop")],
    ids=["in budget", "over lock", "over stall"],
)
def test_a_hold_is_judged_by_the_budget(seconds: float, severity: str | None) -> None:
    text = script("alter table catalogue.geometrias disable trigger all")
    run = measured(text, statement={"locks": (hold(seconds),)})
    assert found(find_hazards(text, run)) == ({("H02", severity)} if severity else set())
    assert found(find_hazards(text, run, Budget(longest_stall_ms=1000, longest_exclusive_lock_ms=500))) == set()


@pytest.mark.parametrize(
    "changes",
    [{"reachable": False}, {"mode": "ShareUpdateExclusiveLock"}, {"mode": "ExclusiveLock", "kind": "m"}],
    ids=["prepared aside", "a mode that blocks nobody", "a concurrent refresh"],
)
def test_a_long_hold_that_nobody_waits_for_is_no_hazard(changes: dict[str, Any]) -> None:
    text = script("select 1")
    assert find_hazards(text, measured(text, statement={"locks": (hold(30.0, **changes),)})) == []


def test_statements_under_a_lock_that_was_taken_earlier_are_counted() -> None:
    text = script("alter table catalogue.geometrias disable trigger all; select 1; select 2")
    run = measured(text, statement={"locks": (hold(3.5),)})
    [hazard] = find_hazards(text, run)
    assert hazard.code == "H02"
    assert "2 further statement(s) ran under it" in hazard.evidence


def test_a_missing_concurrently_that_was_quick_on_the_full_data_is_only_noted() -> None:
    text = script("create index on catalogue.geometrias (name)")
    quick = measured(text, statement={"locks": (hold(0.003, mode="ShareLock"),)})
    slow = measured(text, statement={"locks": (hold(3.0, mode="ShareLock"),)})
    assert ("H05", "note") in found(find_hazards(text, quick))
    assert ("H05", "stop") in found(find_hazards(text, slow))


def test_a_lock_without_lock_timeout_warns_even_when_nobody_was_in_the_way() -> None:
    text = script("alter table catalogue.geometrias disable trigger all")
    run = measured(text, statement={"locks": (hold(0.001),), "lock_timeout_ms": 0})
    [hazard] = find_hazards(text, run)
    assert (hazard.code, hazard.severity, hazard.statement) == ("H01", "warn", 1)


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("do $$ begin alter table catalogue.geometrias disable trigger all; end $$", True),
        (
            "do $$ begin set local lock_timeout = '50ms'; alter table catalogue.geometrias disable trigger all; end $$",
            False,
        ),
        ("do $$ begin call aside.swap(); end $$", False),
        ("call aside.swap()", False),
    ],
    ids=["in a block", "in a block with a limit", "in a routine that is called", "in a procedure"],
)
def test_a_lock_without_lock_timeout_is_told_where_the_text_shows_it(text: str, warned: bool) -> None:
    """What a routine does about its locks is measured, not read."""
    run = measured(script(text), statement={"locks": (hold(0.001),), "lock_timeout_ms": 0})
    assert (("H01", "warn") in found(find_hazards(script(text), run))) is warned


def test_own_and_others_waits_over_the_stall_budget_stop() -> None:
    text = script("select 1")
    own = wait(5.9, pid=1, mode=ACCESS_EXCLUSIVE, behind=(9,), behind_applications=("report",))
    run = measured(text, own_waits=(own,), waits_caused=(wait(5.8, since=1000.05),))
    [hazard] = find_hazards(text, run)
    assert (hazard.code, hazard.severity) == ("H01", "stop")
    assert "waited 5900.0 ms for ACCESS EXCLUSIVE behind pid 9 (report)" in hazard.evidence
    assert "1 session(s) queued behind it, up to 5800.0 ms" in hazard.evidence


def test_waiting_behind_autovacuum_is_named_so() -> None:
    text = script("select 1")
    own = wait(2.0, pid=1, mode="ShareUpdateExclusiveLock", behind=(9,), behind_applications=("autovacuum worker",))
    assert found(find_hazards(text, measured(text, own_waits=(own,)))) == {("H23", "warn")}


def test_a_wait_for_rows_is_a_long_write() -> None:
    text = script("select 1")
    run = measured(text, waits_caused=(wait(2.0, oid=0, relation="a row", mode="ShareLock"),))
    assert found(find_hazards(text, run)) == {("H09", "stop")}


def test_a_rewrite_of_a_large_table_stops_and_of_what_the_script_made_does_not() -> None:
    text = script("alter table catalogue.geometrias set (fillfactor = 70)")
    rewrite = Rewrite("catalogue.geometrias", "r", 50_000_000, 52_000_000, 3.0, new_object=False, reachable=True)
    assert found(find_hazards(text, measured(text, statement={"rewrites": (rewrite,)}))) == {("H07", "stop")}
    own = replace(rewrite, new_object=True)
    assert find_hazards(text, measured(text, statement={"rewrites": (own,)})) == []


@pytest.mark.parametrize(
    ("sqlstate", "code"), [("23505", "H26"), ("22008", "H26"), ("25001", "H06"), ("53100", "H24"), ("55P03", "H01")]
)
def test_a_failure_is_told_with_its_cause(sqlstate: str, code: str) -> None:
    text = script("select 1")
    error = StatementError(sqlstate, "no", "", "", "", "trial.sql", 1, 1, "select 1", ())
    run = measured(text, statement={"error": error}, error=error)
    assert {("H00", "stop"), (code, "stop")} == found(find_hazards(text, run))
    assert verdict([], run) == "stop"


def test_comparing_finds_what_is_left_behind_and_what_is_gone() -> None:
    text = script("select 1")
    invalid = replace(INDEX, oid=102, name="half_idx", valid=False)
    heap = replace(GEOMETRIAS, oid=103, name="copy", analyzed=False, replica_identity="nothing")
    after = CatalogueSnapshot(0, (invalid, heap), (), {"catalogue.rest": 5})
    assert found(find_hazards(text, measured(text, after=after))) == {
        ("H04", "stop"), ("H18", "warn"), ("H20", "warn"), ("H21", "stop"), ("H25", "warn"),
    }  # fmt: skip


def test_an_invalid_index_from_before_is_not_blamed_on_the_script() -> None:
    text = script("create index concurrently if not exists geometrias_idx on catalogue.geometrias (name)")
    snapshot = replace(BEFORE, relations=(GEOMETRIAS, replace(INDEX, valid=False)))
    run = measured(text, before=snapshot, after=snapshot, statement={"lock_timeout_ms": 0})
    assert found(find_hazards(text, run)) == {("H04", "stop"), ("H04", "warn")}


def test_wal_and_disk_are_set_against_the_database() -> None:
    text = script("select 1")
    run = measured(text, wal_bytes=5_000_000_000, peak_database_bytes=2_000_000_000)
    assert found(find_hazards(text, run)) == {("H10", "warn"), ("H24", "note")}


@pytest.mark.parametrize(
    ("kind", "key", "code"),
    [
        ("sequence", "next value", "H11"),
        ("table", "grant select to gis_reader", "H12"),
        ("table", "owner", "H12"),
        ("policy", "using", "H12"),
        ("trigger", "definition", "H13"),
        ("constraint", "definition", "H14"),
        ("table", "referenced by x on y", "H14"),
        ("view", "reads catalogue.geometrias", "H15"),
        ("table", "comment", "H16"),
        ("index", "definition", "H16"),
        ("publication", "table catalogue.geometrias", "H21"),
        ("table", "replica identity", "H21"),
    ],
)
def test_a_difference_between_fingerprints_becomes_the_hazard_that_it_is(kind: str, key: str, code: str) -> None:
    text = script("select 1")
    lost = Difference(kind, "catalogue.geometrias", key, "was", None)
    assert found(find_hazards(text, measured(text), None, [lost])) == {(code, "warn")}
    assert found(find_hazards(text, measured(text, role="rollback"), None, [lost])) == {(code, "stop")}


def test_what_an_apply_adds_is_no_loss_and_what_a_rollback_leaves_is() -> None:
    text = script("select 1")
    added = Difference("table", "catalogue.more", "existence", None, "present")
    assert find_hazards(text, measured(text), None, [added]) == []
    assert verdict_of(find_hazards(text, measured(text, role="rollback"), None, [added])) == "stop"


def test_what_an_apply_moves_to_another_schema_is_noted_and_what_it_loses_beside_it_warns() -> None:
    text = script("select 1")
    moved = [
        Difference("trigger", "touch on catalogue.geometrias", "existence", "present", None),
        Difference("trigger", "touch on aside.geometrias", "existence", None, "present"),
        Difference("table", "catalogue.p", "inherits from catalogue.geometrias", "present", None),
        Difference("table", "catalogue.p", "inherits from aside.geometrias", None, "present"),
    ]
    lost = Difference("trigger", "count on catalogue.geometrias", "existence", "present", None)
    assert found(find_hazards(text, measured(text), None, moved)) == {("H13", "note"), ("H16", "note")}
    assert ("H13", "warn") in found(find_hazards(text, measured(text), None, [*moved, lost]))


def test_many_losses_of_one_kind_are_one_finding() -> None:
    text = script("select 1")
    lost = [Difference("trigger", f"t{n} on catalogue.geometrias", "existence", "present", None) for n in range(20)]
    [hazard] = find_hazards(text, measured(text), None, lost)
    assert hazard.object == "trigger t0 on catalogue.geometrias and 19 more"
    assert hazard.evidence.endswith("and 12 more")


def test_cascade_in_a_rollback_warns() -> None:
    text = script("drop function catalogue.f() cascade")
    assert found(find_hazards(text, measured(text, role="rollback"))) == {("H28", "warn")}
    assert find_hazards(text, measured(text)) == []


def test_the_checklist_has_every_number_once_and_says_how_each_is_looked_for() -> None:
    assert [check.number for check in CHECKLIST] == list(range(1, 31))
    ways = {way for check in CHECKLIST for way in check.how.split("+")}
    assert ways <= {"static", "measured", "compared", "preflight", "elsewhere"}


def test_coverage_counts_what_was_found() -> None:
    lines = coverage(find_hazards(script("create index on catalogue.geometrias (name)"), None))
    assert [line["code"] for line in lines if line["found"]] == ["H05"]
    assert len(lines) == 30


def test_a_record_read_from_json_is_judged_like_the_measurement() -> None:
    text = script("alter table catalogue.geometrias disable trigger all")
    run = measured(text, statement={"locks": (hold(2.0),)})
    record = json.loads(json.dumps({**run.to_json(), "traffic": {"stall_ms": 3}}))
    assert find_hazards(text, record) == find_hazards(text, run)
    assert verdict(find_hazards(text, record), record) == "stop"


def test_no_data_is_never_a_pass() -> None:
    text = script("select 1")
    assert verdict([], measured(text)) == "pass"
    blind = TraceQuality(0, 0.0, 0.0, 0.0, 0.0, 0, complete=False, problem="connection lost")
    assert verdict([], measured(text, trace=blind)) == "warn"
