"""Four kinds of bad change are reported as what they are, and their mended counterparts are not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from comporta.dryrun.hazards import Hazard, find_hazards, verdict
from comporta.dryrun.measure import ScriptMeasurement, measure_script
from comporta.postgres.script import Script
from comporta.release.model import Budget

CHANGES = Path(__file__).parent / "bad_changes"
# Wide enough that a slow machine does not turn a quick lock into a long one; the seeded mistakes last longer.
BUDGET = Budget(longest_stall_ms=1_000, longest_exclusive_lock_ms=500)


def rehearse(name: str, dsn: str) -> tuple[ScriptMeasurement, list[Hazard]]:
    script = Script.read(CHANGES / f"{name}.sql")
    measured = measure_script(script, dsn, role="apply")
    return measured, find_hazards(script, measured.to_json(), BUDGET)


def codes(hazards: list[Hazard], severity: str) -> set[str]:
    return {hazard.code for hazard in hazards if hazard.severity == severity}


def one(hazards: list[Hazard], code: str) -> Hazard:
    return next(hazard for hazard in hazards if hazard.code == code)


@contextmanager
def open_reader(dsn: str) -> Iterator[psycopg.Connection]:
    """Somebody who has read geometrias and keeps the transaction open."""
    with psycopg.connect(dsn, application_name="reader") as reader:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from catalogue.geometrias")
        yield reader


def until(question: Callable[[], bool], tries: int = 3_000) -> None:
    """Ask until the answer is yes; a look at the server takes a moment, so this is bounded in time as well."""
    pause = threading.Event()
    for _ in range(tries):
        if question():
            return
        pause.wait(0.01)
    raise AssertionError("it never came to that")


def test_a_long_lock_is_told_with_its_length_and_what_ran_under_it(catalogue: str) -> None:
    """The hold lasts until COMMIT, although the ALTER TABLE itself is quick."""
    measured, hazards = rehearse("long_lock", catalogue)
    hold = measured.longest_access_exclusive
    assert hold is not None
    assert hold.relation == "catalogue.geometrias"
    assert hold.exact
    assert hold.seconds >= 1.5
    found = one(hazards, "H02")
    assert (found.severity, found.statement, found.object) == ("stop", 3, "catalogue.geometrias")
    assert "1 further statement(s) ran under it" in found.evidence
    assert verdict(hazards, measured) == "stop"


def test_the_same_work_outside_the_lock_is_no_hazard(catalogue: str) -> None:
    measured, hazards = rehearse("long_lock_mended", catalogue)
    assert measured.ok
    assert not codes(hazards, "stop")
    assert not codes(hazards, "warn")
    assert verdict(hazards, measured) == "pass"


def test_a_table_rewrite_is_told_with_its_size(catalogue: str) -> None:
    measured, hazards = rehearse("rewrites_table", catalogue)
    [rewrite] = [each for each in measured.statements[-1].rewrites if each.kind == "r"]
    assert rewrite.relation == "catalogue.geometrias"
    assert rewrite.bytes_before
    assert rewrite.bytes_before > 1_000_000
    assert rewrite.reachable
    found = one(hazards, "H07")
    assert found.severity in ("warn", "stop")
    assert found.object == "catalogue.geometrias"
    assert "MB before" in found.evidence
    assert verdict(hazards, measured) != "pass"


def test_a_column_filled_in_batches_is_no_rewrite(catalogue: str) -> None:
    measured, hazards = rehearse("rewrites_table_mended", catalogue)
    assert measured.ok
    assert not [rewrite for statement in measured.statements for rewrite in statement.rewrites]
    assert not codes(hazards, "stop")
    assert "H07" not in {hazard.code for hazard in hazards}


def test_an_invalid_index_left_behind_is_told(catalogue: str) -> None:
    measured, hazards = rehearse("invalid_index", catalogue)
    assert not measured.ok
    assert measured.after.invalid_indexes == ("catalogue.geometrias_layer_key",)
    assert {"H00", "H04", "H26"} <= codes(hazards, "stop")
    assert "catalogue.geometrias" in one(hazards, "H04").evidence
    assert len(measured.not_run) == 1
    assert verdict(hazards, measured) == "stop"


def test_a_lock_timeout_that_cancels_concurrently_is_told_as_the_cause(catalogue: str) -> None:
    with open_reader(catalogue):
        measured, hazards = rehearse("lock_timeout_on_index", catalogue)
    assert measured.error is not None
    assert measured.error.sqlstate == "55P03"
    assert {"H03", "H04"} <= codes(hazards, "stop")
    assert "100 ms" in one(hazards, "H03").evidence


def test_an_index_built_with_a_budget_of_its_own_is_no_hazard(catalogue: str) -> None:
    measured, hazards = rehearse("invalid_index_mended", catalogue)
    assert measured.ok
    assert not codes(hazards, "stop")
    assert not codes(hazards, "warn")


def test_waiting_behind_a_reader_is_told_with_everyone_who_queued_behind(catalogue: str) -> None:
    """A plain SELECT that comes meanwhile waits for the reader too, because the ALTER TABLE waits in front of it."""
    answers: list[tuple[ScriptMeasurement, list[Hazard]]] = []
    with open_reader(catalogue) as reader, psycopg.connect(catalogue, autocommit=True) as watcher:
        runner = threading.Thread(target=lambda: answers.append(rehearse("behind_reader", catalogue)))
        runner.start()
        until(lambda: waiting(watcher, "AccessExclusiveLock") > 0)
        passer_by = threading.Thread(target=read_once, args=(catalogue,))
        passer_by.start()
        # Not before both have waited longer than the budget: only then is there something to tell.
        until(lambda: waiting(watcher, "AccessShareLock") > 1.1)
        reader.rollback()
        passer_by.join()
        runner.join()
    [(measured, hazards)] = answers
    [own] = [wait for wait in measured.own_waits if wait.relation == "catalogue.geometrias"]
    assert own.seconds > 1.1
    assert "reader" in own.behind_applications
    longest = measured.longest_wait_caused
    assert longest is not None
    assert longest.application == "passer-by"
    assert longest.seconds > 1.1
    assert "H01" in codes(hazards, "stop")
    assert "1 session(s) queued behind it" in one(hazards, "H01").evidence
    assert verdict(hazards, measured) == "stop"


def test_trying_again_instead_of_waiting_lets_readers_pass(catalogue: str) -> None:
    """Behind the same reader, five plain SELECTs come through, and the change ends when the reader does."""
    answers: list[tuple[ScriptMeasurement, list[Hazard]]] = []
    with open_reader(catalogue) as reader, psycopg.connect(catalogue, autocommit=True) as watcher:
        runner = threading.Thread(target=lambda: answers.append(rehearse("behind_reader_mended", catalogue)))
        runner.start()
        until(lambda: waiting(watcher, "AccessExclusiveLock") > 0)
        for _ in range(5):
            read_once(catalogue)
        reader.rollback()
        runner.join()
    [(measured, hazards)] = answers
    assert measured.ok
    assert not codes(hazards, "stop")
    assert "reader" in {name for wait in measured.own_waits for name in wait.behind_applications}


def waiting(watcher: psycopg.Connection, mode: str) -> float:
    """Seconds that the longest wait for geometrias in this mode has lasted; 0 when nobody waits."""
    [(seconds,)] = watcher.execute(
        "select coalesce(max(date_part('epoch', clock_timestamp() - coalesce(waitstart, clock_timestamp()))) + 1e-6, 0)"
        " from pg_locks where relation = 'catalogue.geometrias'::regclass and not granted and mode = %s",
        (mode,),
    ).fetchall()
    return float(seconds)


def read_once(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, application_name="passer-by") as connection:
        connection.execute("select id from catalogue.geometrias limit 1")


@pytest.mark.parametrize("path", sorted(CHANGES.glob("*.sql")), ids=lambda path: path.stem)
def test_every_seeded_change_can_be_read(path: Path) -> None:
    assert Script.read(path).statements
