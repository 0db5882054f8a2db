"""A clone of the target on the shadow server: same database name, same roles, real data, reset between uses.

The target is read by pg_dump (ACCESS SHARE locks and one snapshot) and never written. The clone is restored once into an
idle *golden* database; each use starts from ``CREATE DATABASE .. TEMPLATE golden``, which copies files and takes seconds.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from comporta.errors import ComportaError
from comporta.postgres.connection import (
    Connection,
    connect,
    database_name,
    describe,
    identify,
    refuse_same_server,
    with_database,
)
from comporta.postgres.tools import run_client
from comporta.proof import fingerprint

# Settings whose value is a list of quoted names; the server does not tell which they are, pg_dump names the same.
_LISTS = frozenset(
    ["local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
     "temp_tablespaces", "unix_socket_directories"]
)  # fmt: skip
_NAME = re.compile(r'"((?:[^"]|"")*)"|([^\s",]+)')

# The comment of a finished golden copy; the digest of what it was copied from follows.
_GOLDEN_MARK = "comporta: golden copy"
# Beside the clone, not in it: a clone has nothing that the target has not.
_OWNERS = "create table if not exists comporta_clone (database name primary key, owner text not null)"

OnProgress = Callable[[str], None]


class CloneFailed(ComportaError):
    """The target could not be copied to the shadow; the target is untouched, the shadow has no usable clone."""


class CloneTaken(ComportaError):
    """Another run has replaced the clone that this one was working on."""


@dataclass(frozen=True)
class Clone:
    """What was copied: ``bytes`` is the size of the clone's database, ``seconds`` the time for dump, restore and analyze."""

    source: str
    database: str
    bytes: int
    seconds: float
    parts: dict[str, float]


def target_digest(target_dsn: str) -> str:
    """Digest of the target's fingerprint, without what moves while people use it and what is the server's own."""
    with connect(target_dsn, name="comporta/fingerprint") as target:
        return fingerprint.take(target).digest_without(*fingerprint.NOT_OF_THE_SCHEMA)


@dataclass(frozen=True)
class Shadow:
    """The shadow server seen from one target. Only connections are needed; both roles must be able to read or create."""

    target_dsn: str
    shadow_dsn: str

    @property
    def database(self) -> str:
        """The clone has the target's database name: pg_cron and scripts that name the database find it."""
        return database_name(self.target_dsn)

    @property
    def golden(self) -> str:
        """The idle copy that every reset starts from."""
        return f"{self.database}_golden"

    @property
    def clone_dsn(self) -> str:
        """Connection string of the clone in use."""
        return with_database(self.shadow_dsn, self.database)

    def check(self) -> None:
        """Raise UnsafeTarget unless the two servers are different clusters, UnreachableServer when one is away."""
        with connect(self.target_dsn, name="comporta/shadow") as target, self.maintenance() as shadow:
            refuse_same_server(identify(target), identify(shadow))

    def copy_target(self, on_progress: OnProgress = lambda _: None) -> Clone:
        """Copy roles, schema and data of the target into the golden database. Raises CloneFailed; safe to repeat."""
        self.check()
        parts: dict[str, float] = {}
        source = target_digest(self.target_dsn)
        with tempfile.TemporaryDirectory(prefix="comporta-clone-") as folder:
            with _Timed(parts, "dump"):
                on_progress(f"dump {describe(self.target_dsn)} (reads one snapshot, writes nothing)")
                self._dump(Path(folder))
            with _Timed(parts, "restore"):
                on_progress(f"restore into {describe(self.clone_dsn)}")
                self._copy_roles()
                self._make_empty_clone()
                self._restore(Path(folder))
        with _Timed(parts, "analyze"):
            on_progress("analyze the clone")
            size = self._finish_golden(source)
        return Clone(describe(self.target_dsn), self.database, size, sum(parts.values()), parts)

    def has_golden(self) -> bool:
        """True when a finished golden copy waits on the shadow."""
        return self._comment(self.golden).startswith(_GOLDEN_MARK)

    def golden_source(self) -> str:
        """The digest (see ``target_digest``) of the target that the golden copy was made from; empty without one."""
        return self._comment(self.golden).removeprefix(_GOLDEN_MARK).strip()

    def reset(self, template: str | None = None, owner: str = "") -> str:
        """Replace the clone in use by a fresh copy of ``template`` (the golden one) and return its connection string.

        ``owner`` is the run that it is for. Every session on the old clone is ended, the pg_cron launcher among them: on
        the shadow, jobs that were copied from production are recorded, and are not run.
        """
        if not self.has_golden():
            raise CloneFailed(
                f"no golden copy {self.golden} on {describe(self.shadow_dsn)}", remedy="Clone the target first."
            )
        with self.maintenance() as conn:
            self._drop(conn, self.database)
            conn.execute(
                sql.SQL("create database {} template {} strategy file_copy").format(
                    sql.Identifier(self.database), sql.Identifier(template or self.golden)
                )
            )
            self._note_owner(conn, owner)
            self._copy_database_settings(conn)
        return self.clone_dsn

    def check_owner(self, owner: str) -> None:
        """Raise CloneTaken unless the clone in use was made for ``owner``: two runs on one shadow would mix their results."""
        with self.maintenance() as conn:
            conn.execute(_OWNERS)
            row = conn.execute("select owner from comporta_clone where database = %s", (self.database,)).fetchone()
        found = row[0] if row else ""
        if found != owner:
            raise CloneTaken(
                f"the clone on {describe(self.clone_dsn)} is no longer that of {owner}: found {found or 'nobody'}",
                remedy="Another run has replaced it. Repeat this one from the step that makes the clone.",
            )

    def maintenance(self) -> Connection:
        """A connection to the shadow server beside the clone."""
        return connect(with_database(self.shadow_dsn, "postgres"), name="comporta/shadow")

    def _note_owner(self, conn: Connection, owner: str) -> None:
        conn.execute(_OWNERS)
        conn.execute(
            "insert into comporta_clone values (%s, %s) on conflict (database) do update set owner = excluded.owner",
            (self.database, owner),
        )

    def _comment(self, database: str) -> str:
        with self.maintenance() as conn:
            row = conn.execute(
                "select shobj_description(oid, 'pg_database') from pg_database where datname = %s", (database,)
            ).fetchone()
        return str(row[0] or "") if row else ""

    def _drop(self, conn: Connection, database: str) -> None:
        conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(database)))

    def _make_empty_clone(self) -> None:
        """An empty database under the target's name: pg_cron can be restored into that name only."""
        with connect(self.target_dsn, name="comporta/shadow") as target:
            row = target.execute(
                "select pg_encoding_to_char(encoding), datcollate, datctype from pg_database where datname = current_database()"
            ).fetchone()
        assert row is not None
        encoding, collate, ctype = row
        with self.maintenance() as conn:
            self._retire_cron_launcher(conn)
            self._drop(conn, self.golden)
            self._drop(conn, self.database)
            conn.execute(
                sql.SQL("create database {} template template0 encoding {} lc_collate {} lc_ctype {}").format(
                    sql.Identifier(self.database), sql.Literal(encoding), sql.Literal(collate), sql.Literal(ctype)
                )
            )

    def _retire_cron_launcher(self, conn: Connection) -> None:
        """End pg_cron's launcher until the server's next start, so that no job of production ever runs on the shadow.

        While its database is missing the launcher starts again every second and fails; so let it connect, then drop.
        """
        preloaded = conn.execute("select current_setting('shared_preload_libraries') ~ 'pg_cron'").fetchone()
        if preloaded != (True,):
            return
        if not conn.execute("select from pg_database where datname = %s", (self.database,)).rowcount:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(self.database)))

        def is_connected() -> bool:
            found = conn.execute(
                "select from pg_stat_activity where datname = %s and backend_type ~ 'pg_cron'", (self.database,)
            )
            return bool(found.rowcount)

        Retrying(
            stop=stop_after_delay(2),
            wait=wait_fixed(0.1),
            retry=retry_if_result(lambda connected: not connected),
            retry_error_callback=lambda _: False,  # it was retired before, and stays away until the server starts again
        )(is_connected)

    def _dump(self, folder: Path) -> None:
        # Subscriptions stay behind: a clone that connects to production's publisher would take its changes.
        self._run(
            "pg_dump", self.target_dsn, "--format=directory", "--compress=0", "--jobs=2", "--no-sync",
            "--no-subscriptions", f"--file={folder / 'dump'}",
        )  # fmt: skip

    def _restore(self, folder: Path) -> None:
        self._run("pg_restore", self.clone_dsn, "--jobs=2", "--exit-on-error", str(folder / "dump"))

    def _copy_roles(self) -> None:
        """Create the target's roles on the shadow, without passwords; roles that exist keep theirs."""
        with connect(self.target_dsn, name="comporta/shadow") as target:
            roles = target.execute(
                "select rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,"
                " rolconnlimit"
                " from pg_roles where rolname !~ '^pg_' order by oid"
            ).fetchall()
            members = target.execute(
                "select r.rolname, m.rolname from pg_auth_members a join pg_roles r on r.oid = a.roleid"
                " join pg_roles m on m.oid = a.member where m.rolname !~ '^pg_' order by 1, 2"
            ).fetchall()
        flags = ("superuser", "inherit", "createrole", "createdb", "login", "replication", "bypassrls")
        with self.maintenance() as conn:
            there = {name for (name,) in conn.execute("select rolname from pg_roles")}
            for name, *values, limit in roles:
                if name not in there:
                    options = " ".join(flag if on else f"no{flag}" for flag, on in zip(flags, values, strict=True))
                    conn.execute(
                        sql.SQL("create role {} " + options + " connection limit {}").format(
                            sql.Identifier(name), limit
                        )
                    )
            for group, member in members:
                conn.execute(sql.SQL("grant {} to {}").format(sql.Identifier(group), sql.Identifier(member)))

    def _copy_database_settings(self, conn: Connection) -> None:
        with connect(self.target_dsn, name="comporta/shadow") as target:
            settings = target.execute(
                "select r.rolname, s.setconfig from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase"
                " left join pg_roles r on r.oid = s.setrole where d.datname = current_database()"
            ).fetchall()
        for role, configuration in settings:
            for setting in configuration:
                key, _, value = setting.partition("=")
                who = sql.SQL("role {} in database {}") if role else sql.SQL("database {}")
                names = [sql.Identifier(part) for part in (role, self.database) if part]
                statement = sql.SQL("alter {} set {} to {}").format(
                    who.format(*names), sql.Identifier(*key.split(".")), _value(key, value)
                )
                try:
                    conn.execute(statement)
                except psycopg.Error as error:
                    raise CloneFailed(
                        f"the shadow {describe(self.shadow_dsn)} refuses the target's setting {key}: "
                        f"{error.diag.message_primary}",
                        remedy="Give the shadow the same extensions and preloaded libraries as the target.",
                    ) from error

    def _finish_golden(self, source: str) -> int:
        with connect(self.clone_dsn, name="comporta/shadow") as conn:
            conn.execute("vacuum (freeze, analyze)")
            row = conn.execute("select pg_database_size(current_database())").fetchone()
            assert row is not None
        with self.maintenance() as conn:
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (self.database,))
            conn.execute(
                sql.SQL("alter database {} rename to {}").format(
                    sql.Identifier(self.database), sql.Identifier(self.golden)
                )
            )
            conn.execute(
                sql.SQL("comment on database {} is {}").format(sql.Identifier(self.golden), f"{_GOLDEN_MARK} {source}")
            )
            conn.execute("checkpoint")
        return int(row[0])

    def _run(self, program: str, dsn: str, *arguments: str) -> None:
        done = run_client(program, dsn, *arguments)
        if done.returncode:
            shown = "\n  ".join(done.stderr.strip().splitlines()[-8:])
            raise CloneFailed(
                f"{program} ended with status {done.returncode} for {describe(dsn)}\n  {shown}",
                remedy="The target was only read. Correct the cause and clone again.",
            )


class _Timed:
    """Add the seconds spent in a block to ``parts[name]``."""

    def __init__(self, parts: dict[str, float], name: str) -> None:
        self.parts, self.name = parts, name

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.parts[self.name] = time.monotonic() - self.started


def _value(setting: str, value: str) -> sql.Composable:
    """The stored ``value`` as SET wants it: of a list each name is a literal, as one literal it would become one name."""
    if setting.lower() not in _LISTS:
        return sql.Literal(value)
    names = [quoted.replace('""', '"') if quoted else bare for quoted, bare in _NAME.findall(value)]
    return sql.SQL(", ").join(map(sql.Literal, names or [""]))
