"""A clone is a faithful copy that nothing of production runs on, and the target is only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from comporta.errors import UnsafeTarget
from comporta.postgres.connection import describe
from comporta.proof import fingerprint
from comporta.proof.checksum import TableChecksum, checksum_tables
from comporta.shadow.clone import Clone, CloneFailed, Shadow

VISITOR = "clone_test_visitor"
READ_ONLY = "-c default_transaction_read_only=on"


@dataclass(frozen=True)
class State:
    """What a target or a clone is."""

    fingerprint: fingerprint.Fingerprint
    rows: dict[str, TableChecksum]

    @classmethod
    def of(cls, dsn: str) -> State:
        with psycopg.connect(dsn, autocommit=True) as conn:
            return cls(fingerprint.take(conn), checksum_tables(conn))


@dataclass(frozen=True)
class Cloned:
    """A target, its shadow, what the copy said, and the target before and after."""

    shadow: Shadow
    made: Clone
    said: list[str]
    before: State
    after: State


def ask(dsn: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(query, parameters or None).fetchall()  # type: ignore[arg-type]


def tell(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cloned(servers: Any, free_shadow: str) -> Iterator[Cloned]:
    """A target with a role, settings and a job of its own, copied once, through sessions that could not write to it."""
    target = servers.target.fresh_catalogue()
    tell(
        target,
        f"drop role if exists {VISITOR}",
        f"create role {VISITOR} login noinherit connection limit 3 password 'of-production' in role gis_reader",
        "alter database gis set work_mem to '7MB'",
        "alter database gis set search_path to catalogue, public",
        "alter database gis set temp_tablespaces to ''",
        f'alter role {VISITOR} in database gis set search_path to "$user", "São, Paulo", public',
        f"alter role {VISITOR} in database gis set statement_timeout to '9s'",
        "alter database gis set comporta.note to 'são, \"paulo\"'",
        f"grant select on catalogue.layers to {VISITOR}",
        "select cron.schedule('nightly', '0 3 * * *', 'select 1')",
    )
    servers.shadow.cluster.restart()  # with pg_cron's launcher at work
    shadow = Shadow(make_conninfo(target, options=READ_ONLY), free_shadow)
    said: list[str] = []
    before = State.of(target)
    made = shadow.copy_target(said.append)
    shadow.reset()
    yield Cloned(shadow, made, said, before, State.of(target))
    servers.target.fresh_catalogue()
    tell(servers.target.database("postgres"), f"drop role if exists {VISITOR}")
    tell(
        servers.shadow.database("postgres"),
        "drop database if exists gis with (force)",
        "drop database if exists gis_golden",
    )
    tell(servers.shadow.database("postgres"), f"drop role if exists {VISITOR}")


def test_the_clone_has_every_fact_and_every_row_of_the_target(cloned: Cloned) -> None:
    copy = State.of(cloned.shadow.clone_dsn)
    ignored = [fingerprint.SEQUENCE_POSITIONS]
    assert fingerprint.diff(cloned.before.fingerprint, copy.fingerprint, ignore=ignored) == []
    assert copy.rows == cloned.before.rows
    assert copy.rows["catalogue.geometrias"].rows > 0


def test_the_target_is_only_read(cloned: Cloned) -> None:
    """Its sessions could not have written, and nothing of it changed."""
    assert cloned.after.fingerprint.digest == cloned.before.fingerprint.digest
    assert cloned.after.rows == cloned.before.rows


def test_what_was_copied_is_told(cloned: Cloned) -> None:
    assert cloned.made.database == "gis"
    assert cloned.made.bytes > 1_000_000
    assert cloned.made.parts.keys() == {"dump", "restore", "analyze"}
    assert cloned.made.seconds == sum(cloned.made.parts.values())
    assert cloned.made.source == describe(cloned.shadow.target_dsn)
    assert cloned.said[0].startswith(f"dump {cloned.made.source}")


def test_roles_come_with_their_rights_and_without_their_passwords(cloned: Cloned) -> None:
    dsn = cloned.shadow.clone_dsn
    [role] = ask(dsn, "select rolcanlogin, rolinherit, rolpassword from pg_authid where rolname = %s", VISITOR)
    assert role == (True, False, None)
    assert ask(dsn, "select pg_has_role(%s, 'gis_reader', 'member')", VISITOR) == [(True,)]
    assert ask(dsn, "select has_table_privilege(%s, 'catalogue.layers', 'select')", VISITOR) == [(True,)]


def test_settings_of_the_database_come_along(cloned: Cloned) -> None:
    query = (
        "select coalesce(setrole::regrole::text, ''), unnest(setconfig) from pg_db_role_setting"
        " where setdatabase = (select oid from pg_database where datname = 'gis') order by 1, 2"
    )
    found = ask(cloned.shadow.clone_dsn, query)
    assert found == ask(cloned.shadow.target_dsn, query)
    assert len(found) >= 6
    assert ask(cloned.shadow.clone_dsn, "show search_path") == [("catalogue, public",)]


def test_jobs_of_production_are_recorded_and_never_run(cloned: Cloned) -> None:
    dsn = cloned.shadow.clone_dsn
    assert ("nightly", "0 3 * * *", True) in ask(dsn, "select jobname, schedule, active from cron.job")
    assert ask(dsn, "select datname from pg_stat_activity where backend_type ~ 'pg_cron'") == []
    assert ask(dsn, "select count(*) from cron.job_run_details") == [(0,)]


def test_a_reset_gives_a_fresh_copy_whatever_was_done_to_the_last(cloned: Cloned) -> None:
    tell(cloned.shadow.clone_dsn, "drop table catalogue.edits cascade", "delete from catalogue.annotations")
    with closing(psycopg.connect(cloned.shadow.clone_dsn)) as left_open:
        left_open.execute("select count(*) from catalogue.geometrias")
        again = State.of(cloned.shadow.reset())
        with pytest.raises(psycopg.errors.AdminShutdown):
            left_open.execute("select 1")
    assert again.rows == cloned.before.rows


def test_the_target_as_its_own_shadow_is_refused_before_anything_is_dropped(cloned: Cloned) -> None:
    target = cloned.shadow.target_dsn
    other = make_conninfo(target, host="localhost", dbname="postgres")
    for shadow in (Shadow(target, target), Shadow(target, other)):
        with pytest.raises(UnsafeTarget, match="own server"):
            shadow.copy_target()
    assert State.of(target).rows == cloned.before.rows


def test_a_program_that_fails_is_quoted_and_never_sees_the_password_on_its_command_line(
    cloned: Cloned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pg_dump"
    program.write_text(
        '#!/bin/sh\necho "pg_dump: error: no luck; called with $*" >&2\ntest -n "$PGPASSWORD" && exit 3\nexit 4\n'
    )
    program.chmod(0o700)
    monkeypatch.setenv("COMPORTA_PG_BIN", str(tmp_path))
    with pytest.raises(CloneFailed, match="ended with status 3") as caught:
        cloned.shadow.copy_target()
    message = str(caught.value)
    assert "no luck; called with --dbname=" in message
    assert str(psycopg.conninfo.conninfo_to_dict(cloned.shadow.target_dsn)["password"]) not in message
    assert cloned.shadow.has_golden()


def test_without_a_golden_copy_a_reset_says_what_to_do_and_drops_nothing(cloned: Cloned, servers: Any) -> None:
    postgres = servers.shadow.database("postgres")
    missing = Shadow(make_conninfo(cloned.shadow.target_dsn, dbname="postgres"), cloned.shadow.shadow_dsn)
    with pytest.raises(CloneFailed, match=r"no golden copy postgres_golden on .*\nClone the target first"):
        missing.reset()
    assert ask(postgres, "select count(*) from pg_database where datname = 'postgres'") == [(1,)]


def test_a_database_that_only_has_the_name_of_a_golden_copy_is_none(cloned: Cloned, servers: Any) -> None:
    """A copy that was cut short has no mark yet, and a database of somebody else never gets one."""
    postgres = servers.shadow.database("postgres")
    tell(postgres, "comment on database gis_golden is null")
    assert not cloned.shadow.has_golden()
    tell(postgres, "comment on database gis_golden is 'comporta: golden copy'")
    assert cloned.shadow.has_golden()
