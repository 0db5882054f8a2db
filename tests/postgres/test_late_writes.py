"""Late writes on a real server: which rows they touched is known exactly, the audit trail is counted, conflicts are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from comporta.demo.late import (
    LateWriter,
    NothingToWrite,
    last_edit,
    late_rows,
    merge,
    missing_edits,
    seed_conflict,
)
from comporta.demo.record import UNIDENTIFIED, TrafficRecord
from comporta.demo.traffic import Traffic, lost_writes
from comporta.errors import StatementFailed
from comporta.postgres.connection import connect
from comporta.postgres.execution import ScriptProgress, run_script
from comporta.postgres.script import Script
from comporta.proof.checksum import TableChecksum, checksum_tables

if TYPE_CHECKING:
    from tests.postgres.conftest import Servers

TABLES = ("geometrias", "annotations", "edits", "inspections", "layers")
BLOCKED = "select pid from pg_stat_activity where wait_event_type = 'Lock' and query like 'insert into catalogue.{}%'"


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


@contextmanager
def traffic_after(dsn: str, done: int, **settings: Any) -> Iterator[Traffic]:
    with Traffic(dsn, reads_per_s=10, connections=4, **settings) as traffic:
        wait_for(dsn, traffic, lambda: traffic.progress().done >= done)
        yield traffic


def wait_for(dsn: str, traffic: Traffic, condition: Any) -> Any:
    while not (found := condition()):
        assert traffic.is_running()
        rows(dsn, "select pg_sleep(0.02)")
    return found


def recorded(dsn: str, done: int = 150, **settings: Any) -> TrafficRecord:
    with traffic_after(dsn, done, writes_per_s=100, **settings) as traffic:
        return traffic.stop()


def merged(*records: TrafficRecord) -> TrafficRecord:
    record = merge(records)
    assert record is not None
    return record


def run(dsn: str, script: Script, writer: LateWriter | None = None) -> None:
    def at_boundary(progress: ScriptProgress) -> None:
        if writer is not None and progress.notice is None:
            writer.write(progress.statement.headline)

    with connect(dsn, name="test") as connection:
        run_script(connection, script, at_boundary)


def opt1(project: Path, role: str) -> Script:
    (path,) = (project / "sql" / role).glob("*OPT1_*.sql")
    return Script.read(path)


def checksums(dsn: str, record: TrafficRecord | None = None) -> dict[str, TableChecksum]:
    late = late_rows(dsn, record) if record else None
    with connect(dsn, name="test") as connection:
        return checksum_tables(
            connection,
            [f"catalogue.{name}" for name in TABLES],
            exclude_ids=late.exclude_ids if late else None,
            id_columns=late.id_columns if late else None,
        )


def untouched_before(dsn: str, before: str, record: TrafficRecord) -> dict[str, TableChecksum]:
    """Checksums of the database ``before``, without the rows that the record says were touched in ``dsn``."""
    late = late_rows(dsn, record)
    with connect(before, name="test") as connection:
        names = [f"catalogue.{name}" for name in TABLES]
        return checksum_tables(connection, names, exclude_ids=late.exclude_ids, id_columns=late.id_columns)


# --- Which rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "obstacle"),
    [
        ("geometrias", "select from catalogue.layers for update"),
        ("annotations", "lock table catalogue.annotations in exclusive mode"),
    ],
)
def test_an_insert_that_is_cut_off_is_noted_with_its_values_and_accepted_either_way(
    catalogue: str, table: str, obstacle: str
) -> None:
    with traffic_after(catalogue, 20, writes_per_s=60) as traffic:
        with psycopg.connect(catalogue) as connection:
            connection.execute(obstacle.encode())
            (pid,) = wait_for(catalogue, traffic, lambda: rows(catalogue, BLOCKED.format(table)))[0]
            rows(catalogue, f"select pg_terminate_backend({pid}, 5000)")
        record = traffic.stop()
    (cut,) = record.unknown
    assert (cut.id, cut.table, cut.action) == (UNIDENTIFIED, table, "insert")
    assert set(cut.values) >= ({"name", "rev"} if table == "geometrias" else {"geometria_id", "body"})
    assert lost_writes(catalogue, record) == []


def test_an_unanswered_insert_that_happened_is_found_by_its_revision(catalogue: str) -> None:
    with LateWriter(catalogue) as writer:
        writer.write("once")
    inserted = writer.record().acknowledged[0]
    happened = replace(inserted, id=UNIDENTIFIED)
    never = replace(happened, values={"rev": "never sent"})
    late = late_rows(catalogue, replace(writer.record(), acknowledged=(), unknown=(happened, never)))
    assert late.exclude_ids["catalogue.geometrias"] == [inserted.id]
    assert late.writes == 2


def test_a_row_counts_as_touched_with_or_without_an_answer_and_an_annotated_one_only_where_it_was(
    catalogue: str,
) -> None:
    with LateWriter(catalogue) as writer:
        writer.write("once")
    record = writer.record()
    late = late_rows(catalogue, record)
    assert late == late_rows(catalogue, replace(record, acknowledged=(), unknown=record.acknowledged))
    note = next(write for write in record.acknowledged if write.table == "annotations")
    alone = late_rows(catalogue, replace(record, acknowledged=(note,)))
    assert alone.exclude_ids["catalogue.geometrias"] == []
    assert alone.exclude_ids["catalogue.annotations"] == [int(note.values["geometria_id"])]


def test_a_crash_of_the_server_loses_no_acknowledged_write_and_leaves_no_row_unexplained(
    servers: Servers, catalogue: str, target_dsn: str
) -> None:
    # The test servers may lose what they acknowledged; and PostgreSQL takes a sequence of a database copied since the last
    # checkpoint for logged ahead, as its original was, so that a crash would set it back.
    rows(catalogue, "alter database gis set synchronous_commit = on")
    rows(catalogue, "checkpoint")
    with LateWriter(catalogue) as writer, traffic_after(catalogue, 50, writes_per_s=100) as traffic:
        writer.write("before")
        servers.shadow.stop("immediate")
        writer.write("while it is down")
        servers.shadow.start()
        done = traffic.progress().done
        wait_for(catalogue, traffic, lambda: traffic.progress().done > done + 50)
        writer.write("after")
        record = traffic.stop()
    late = writer.record()
    assert not [each.error for each in late.failed()[1:] if not (each.error or "").startswith("connection")]
    assert len(late.unknown) == 1
    together = merged(record, late)
    assert lost_writes(catalogue, together) == []
    assert missing_edits(catalogue, together, 0) == []
    assert checksums(catalogue, together) == untouched_before(catalogue, target_dsn, together)


def test_the_revisions_of_two_runs_of_one_seed_are_apart(catalogue: str) -> None:
    revisions = [
        {write.values.get("rev") or write.values.get("body") for write in recorded(catalogue, 60).acknowledged} - {None}
        for _ in range(2)
    ]
    assert all(revisions)
    assert not revisions[0] & revisions[1]


def test_traffic_changes_no_row_but_those_that_its_record_names(catalogue: str, target_dsn: str) -> None:
    record = recorded(catalogue)
    assert checksums(catalogue, record) == untouched_before(catalogue, target_dsn, record)
    rows(catalogue, "update catalogue.geometrias set name = 'x' where id = 10")
    after, before = checksums(catalogue, record), untouched_before(catalogue, target_dsn, record)
    assert {name for name in after if after[name] != before[name]} == {"catalogue.geometrias", "catalogue.edits"}


# --- The audit trail --------------------------------------------------------------------------------------------------


def test_each_write_left_one_edit(catalogue: str) -> None:
    rows(catalogue, "update catalogue.geometrias set restricted = restricted")
    before = last_edit(catalogue)
    assert before >= 5_000
    assert missing_edits(catalogue, recorded(catalogue), before) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("delete from catalogue.edits where id = (select max(id) from catalogue.edits)", "found none"),
        (
            "insert into catalogue.edits (geometria_id, action) select geometria_id, action from catalogue.edits",
            "found 2",
        ),
    ],
    ids=["a trigger that slept", "a trigger that fired twice"],
)
def test_a_write_without_its_edit_or_with_two_is_told(catalogue: str, damage: str, found: str) -> None:
    with LateWriter(catalogue) as writer:
        writer.write("once")
    assert missing_edits(catalogue, writer.record(), 0) == []
    rows(catalogue, damage)
    told = missing_edits(catalogue, writer.record(), 0)
    assert told
    assert found in told[-1]


def test_an_unanswered_write_may_have_left_an_edit_or_none(catalogue: str) -> None:
    with LateWriter(catalogue) as writer:
        writer.write("once")
    known = writer.record()
    guessed = TrafficRecord(0, 1, 0, 0, (), (), known.acknowledged)
    assert missing_edits(catalogue, guessed, 0) == []
    rows(catalogue, "delete from catalogue.edits")
    assert missing_edits(catalogue, guessed, 0) == []


# --- The late writer --------------------------------------------------------------------------------------------------


def test_the_late_writer_writes_every_kind_on_hot_and_cold_rows_in_every_year(catalogue: str) -> None:
    years = dict(rows(catalogue, "select id, extract(year from data_referencia)::int from catalogue.geometrias"))
    with LateWriter(catalogue) as writer:
        for turn in range(17):
            writer.write(f"turn {turn}")
    record = writer.record()
    assert record.failed() == []
    assert [mark.label for mark in record.marks][:2] == ["turn 0", "turn 1"]
    assert {each.kind for each in record.operations} == {"insert", "rename", "redate", "reshape", "delete", "annotate"}
    written = [write for write in record.acknowledged if write.table == "geometrias"]
    dates = {int(write.values["data_referencia"][:4]) for write in written if "data_referencia" in write.values}
    assert dates == set(range(2015, 2032))
    for action in ("update", "delete"):
        touched = [years[write.id] for write in written if write.action == action and write.id in years]
        assert min(touched) < 2019
        assert max(touched) > 2021
    assert lost_writes(catalogue, record) == []


def test_the_late_writer_and_the_traffic_never_meet(catalogue: str) -> None:
    with LateWriter(catalogue) as writer:
        writer.write("before the traffic")
        with traffic_after(catalogue, 100, writes_per_s=100) as traffic:
            for turn in range(10):
                writer.write(f"turn {turn}")
            record = traffic.stop()
    late = writer.record()
    assert not late.failed()
    assert not record.failed()
    assert not {write.id for write in late.acknowledged if write.table == "geometrias"} & {
        int(write.values.get("geometria_id", write.id)) for write in record.acknowledged
    }
    assert lost_writes(catalogue, merged(late, record)) == []


def test_the_same_catalogue_gets_the_same_late_writes(catalogue: str, target_dsn: str) -> None:
    def written(dsn: str) -> list[tuple[Any, ...]]:
        with LateWriter(dsn) as writer:
            writer.write("a")
            writer.write("b")
        return [
            (write.id, write.table, write.action, {k: v for k, v in write.values.items() if k not in {"rev", "body"}})
            for write in writer.record().acknowledged
        ]

    assert written(catalogue) == written(target_dsn)


def test_a_late_write_that_is_refused_is_a_failure_with_its_sqlstate(catalogue: str) -> None:
    rows(catalogue, "revoke update (name) on catalogue.geometrias from gis_editor")
    with LateWriter(catalogue) as writer:
        writer.write("refused")
    (failed,) = writer.record().failed()
    assert failed.kind == "rename"
    assert (failed.error or "").startswith("42501")
    assert lost_writes(catalogue, writer.record()) == []


def test_a_late_write_does_not_wait_for_ever_behind_a_lock(catalogue: str) -> None:
    with LateWriter(catalogue, lock_timeout_ms=20) as writer, psycopg.connect(catalogue) as connection:
        connection.execute("lock table catalogue.annotations in share mode")
        writer.write("locked")
    failed = writer.record().failed()
    assert {each.kind for each in failed} == {"delete", "annotate"}
    assert all((each.error or "").startswith("55P03") for each in failed)


def test_the_late_writer_connects_again_and_calls_unknown_only_what_was_sent(catalogue: str) -> None:
    with LateWriter(catalogue) as writer:
        rows(
            catalogue,
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'comporta late writer'",
        )
        writer.write("cut")
        writer.write("again")
    record = writer.record()
    assert [each.kind for each in record.failed()] == ["insert"]
    assert [write.id for write in record.unknown] == [UNIDENTIFIED]
    assert lost_writes(catalogue, record) == []


def test_a_catalogue_without_rows_to_spare_is_refused(catalogue: str) -> None:
    rows(catalogue, "truncate catalogue.geometrias cascade")
    with pytest.raises(NothingToWrite, match="no row for a late writer"):
        LateWriter(catalogue)


def test_late_writes_at_every_statement_of_opt1_and_its_rollback_survive_and_leave_their_edits(
    catalogue: str, target_dsn: str, project: Path
) -> None:
    with LateWriter(catalogue) as writer:
        run(catalogue, opt1(project, "apply"), writer)
        writer.write("applied")
        run(catalogue, opt1(project, "rollback"), writer)
        writer.write("rolled back")
    record = writer.record()
    assert record.failed() == []
    assert lost_writes(catalogue, record) == []
    assert missing_edits(catalogue, record, 0) == []
    assert checksums(catalogue, record) == untouched_before(catalogue, target_dsn, record)


# --- A conflict -------------------------------------------------------------------------------------------------------


def test_a_table_with_a_key_on_id_refuses_the_conflict(catalogue: str) -> None:
    assert seed_conflict(catalogue) is None


def test_a_conflict_can_be_undone_without_a_trace(catalogue: str, project: Path) -> None:
    run(catalogue, opt1(project, "apply"))
    before = checksums(catalogue)
    conflict = seed_conflict(catalogue)
    assert conflict is not None
    assert conflict.rows(catalogue) == 2
    conflict.undo(catalogue)
    assert conflict.rows(catalogue) == 1
    assert checksums(catalogue) == before
    run(catalogue, opt1(project, "verify"))


def test_the_rollback_of_opt1_names_the_id_that_is_there_twice_and_goes_through_once_it_is_undone(
    catalogue: str, project: Path
) -> None:
    run(catalogue, opt1(project, "apply"))
    with LateWriter(catalogue) as writer:
        writer.write("applied")
    conflict = seed_conflict(catalogue, late_rows(catalogue, writer.record()).exclude_ids["catalogue.geometrias"])
    assert conflict is not None
    with pytest.raises(StatementFailed, match=f"the row with id {conflict.id} "):
        run(catalogue, opt1(project, "rollback"))
    assert conflict.rows(catalogue) == 2
    conflict.undo(catalogue)
    run(catalogue, opt1(project, "rollback"))
    assert conflict.rows(catalogue) == 1
    assert lost_writes(catalogue, writer.record()) == []


def test_a_conflict_needs_a_row_to_repeat(catalogue: str) -> None:
    with pytest.raises(NothingToWrite, match="no row to repeat"):
        seed_conflict(catalogue, [999_999])
