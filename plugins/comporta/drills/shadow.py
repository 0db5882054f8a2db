"""The shadow crashes, answers again, and is built once more from nothing: it holds nothing that the target has not."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from psycopg import sql

from comporta.drills.model import CannotDrill, Context, Drill, DrillResult, NotRecovered
from comporta.errors import UnsafeTarget
from comporta.postgres.connection import Connection, connect, describe, identify, with_database
from comporta.postgres.tools import client_program, run_client
from comporta.proof import fingerprint
from comporta.settings import Settings
from comporta.shadow.clone import Shadow
from comporta.shadow.lease import lease

SCRATCH = "comporta_drill"
_MARK = "comporta: failover drill"
# pg_cron can be restored into the database that its server names, and into no other.
_OF_CRON = re.compile(r" (EXTENSION - pg_cron|COMMENT - EXTENSION pg_cron|\S+( \S+)? - SCHEMA cron|[A-Z ]+ cron )")
_NAMED_FOR_CRON = re.compile(r"(^|\bon )cron\.|^(pg_)?cron$")
_SERVERS_OWN = (fingerprint.SEQUENCE_POSITIONS, "roles", "database", "cron jobs")


def _run(context: Context) -> DrillResult:
    settings = context.settings
    with ExitStack() as stack:
        shadow = settings.require("shadow")
        if settings.control_dsn:
            shadow = stack.enter_context(lease(settings.require("control"), [shadow], context.say))
        return _crash_and_rebuild(context, Shadow(settings.require("target"), shadow), settings)


def _crash_and_rebuild(context: Context, shadow: Shadow, settings: Settings) -> DrillResult:
    golden = _check(shadow, settings)
    away_s = _crash(context, shadow)
    started = context.clock()
    differences = _rebuild_beside(context, shadow) if golden else _rebuild_clone(context, shadow)
    rebuilt_s = context.clock() - started
    return context.recovered(
        "shadow",
        seconds=away_s + rebuilt_s,
        lost=len(differences),
        away_seconds=round(away_s, 3),
        rebuild_seconds=round(rebuilt_s, 3),
        rebuilt_as=SCRATCH if golden else shadow.golden,
        differences=differences[:20],
        server=describe(shadow.shadow_dsn),
    )


def _check(shadow: Shadow, settings: Settings) -> bool:
    """True when a golden copy is there; CannotDrill when crashing this server would harm anything but a shadow at rest."""
    try:
        shadow.check()
    except UnsafeTarget as error:
        raise CannotDrill(error.message, remedy=error.remedy) from error
    with shadow.maintenance() as conn:
        me = identify(conn).system_identifier
        busy = conn.execute(
            "select distinct format('%s on %s', coalesce(nullif(application_name, ''), usename), datname)"
            " from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        ).fetchall()
        _drop_scratch(conn)
    if settings.control_dsn:
        with connect(settings.require("control"), name="comporta/drill") as control:
            if identify(control).system_identifier == me:
                raise CannotDrill(
                    "the control database is on the shadow server: the drill would crash both",
                    remedy="Move one of them to a server of its own.",
                )
    if busy:
        raise CannotDrill(
            f"the shadow is in use by {', '.join(name for (name,) in busy)}: the drill would crash it under them",
            remedy="Wait until they have ended, then drill.",
        )
    return shadow.has_golden()


def _crash(context: Context, shadow: Shadow) -> float:
    from comporta.validation.faults import FaultNotPossible, crash_server

    with context.step(f"CRASH of {describe(shadow.shadow_dsn)} (a backend is killed), until it answers"):
        try:
            return crash_server(with_database(shadow.shadow_dsn, "postgres")).seconds
        except FaultNotPossible as error:
            raise CannotDrill(error.message, remedy=error.remedy) from error


def _rebuild_clone(context: Context, shadow: Shadow) -> list[str]:
    with context.step("there is no golden copy: it is made from the target, with the clone"):
        shadow.copy_target()
        clone = shadow.reset(owner="drill")
    with context.step("the clone is compared with the target"):
        return _differences(shadow, clone)


def _rebuild_beside(context: Context, shadow: Shadow) -> list[str]:
    """Leave clone and golden copy alone, which a run may need, and build a third one beside them."""
    with tempfile.TemporaryDirectory(prefix="comporta-drill-") as folder, _scratch_database(shadow) as scratch:
        dump = str(Path(folder) / "dump")
        with context.step(f"dump of {describe(shadow.target_dsn)}: it is only read"):
            _client("pg_dump", shadow.target_dsn, "--format=directory", "--compress=0", "--jobs=2", "--no-sync",
                    "--no-subscriptions", f"--file={dump}")  # fmt: skip
        with context.step(f"restore into {describe(scratch)}"):
            contents = Path(folder) / "contents"
            _list_without_cron(dump, contents)
            _client("pg_restore", scratch, "--jobs=2", "--exit-on-error", f"--use-list={contents}", dump)
        with context.step("the rebuilt copy is compared with the target"):
            return _differences(shadow, scratch)


@contextmanager
def _scratch_database(shadow: Shadow) -> Iterator[str]:
    """An empty database of the target's encoding, dropped at the end."""
    with connect(shadow.target_dsn, name="comporta/drill") as target:
        row = target.execute(
            "select pg_encoding_to_char(encoding), datcollate, datctype from pg_database where datname = current_database()"
        ).fetchone()
    assert row is not None
    with shadow.maintenance() as conn:
        conn.execute(
            sql.SQL("create database {} template template0 encoding {} lc_collate {} lc_ctype {}").format(
                sql.Identifier(SCRATCH), *map(sql.Literal, row)
            )
        )
        conn.execute(sql.SQL("comment on database {} is {}").format(sql.Identifier(SCRATCH), sql.Literal(_MARK)))
    try:
        yield with_database(shadow.shadow_dsn, SCRATCH)
    finally:
        with shadow.maintenance() as conn:
            _drop_scratch(conn)


def _drop_scratch(conn: Connection) -> None:
    """Drop what this drill, or one that was killed, left; CannotDrill when somebody else made a database of that name."""
    found = conn.execute(
        "select shobj_description(oid, 'pg_database') from pg_database where datname = %s", (SCRATCH,)
    ).fetchone()
    if found is not None and found != (_MARK,):
        raise CannotDrill(
            f"the shadow has a database {SCRATCH} that no drill made; it was left alone",
            remedy="Rename or drop it yourself.",
        )
    conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(SCRATCH)))


def _differences(shadow: Shadow, copy: str) -> list[str]:
    with connect(shadow.target_dsn, name="comporta/drill") as target, connect(copy, name="comporta/drill") as rebuilt:
        expected, found = fingerprint.take(target), fingerprint.take(rebuilt)
    differences = fingerprint.diff(expected, found, ignore=_SERVERS_OWN)
    return [str(each) for each in differences if not _NAMED_FOR_CRON.search(each.object_name)]


def _list_without_cron(dump: str, contents: Path) -> None:
    listed = subprocess.run(
        [client_program("pg_restore"), "--list", dump], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout
    contents.write_text(
        "".join(line for line in listed.splitlines(keepends=True) if not _OF_CRON.search(line)), encoding="utf-8"
    )


def _client(program: str, dsn: str, *arguments: str) -> None:
    done = run_client(program, dsn, *arguments)
    if done.returncode:
        said = "\n  ".join(done.stderr.strip().splitlines()[-6:])
        raise NotRecovered(f"{program} ended with status {done.returncode} for {describe(dsn)}\n  {said}")


DRILL = Drill(
    name="shadow",
    component="shadow",
    summary="The shadow crashes, recovers by itself, and is built again from the target without a difference.",
    touches="Crashes the shadow server; reads the target with pg_dump; makes and drops a database comporta_drill.",
    lost_are="facts of the target's catalogue",
    run=_run,
)
