"""Makes the demo catalogue in an empty database: roles, schema, and rows made inside the server from real outlines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psycopg
from psycopg import sql

from comporta.demo.outlines import outlines
from comporta.errors import ComportaError, ConfigurationError, StatementFailed, UnreachableServer, UnsafeTarget
from comporta.postgres.queries import load
from comporta.postgres.script import Script

Progress = Callable[[str, float], None]
_BATCH = 25_000
_RESET = "drop schema if exists catalogue, comporta cascade; drop publication if exists catalogue_feed;"


class CatalogueUnfinished(ComportaError):
    """A demo catalogue is there, but its loading was cut short; nothing was changed."""


class CatalogueDiffers(ComportaError):
    """A finished demo catalogue is there, made with other rows or another seed; nothing was changed."""


@dataclass(frozen=True)
class LoadSummary:
    """What is in the database now; ``size_bytes`` counts tables, indexes and TOAST, ``seconds`` is of this call."""

    rows: int
    seed: int
    annotations: int
    inspections: int
    size_bytes: int
    seconds: float
    already_there: bool


@dataclass(frozen=True)
class _Mark:
    rows: int
    seed: int
    finished: bool


def load_catalogue(
    dsn: str,
    rows: int = 300_000,
    seed: int = 1,
    on_progress: Progress | None = None,
    *,
    project_root: Path | None = None,
    passwords: Mapping[str, str] | None = None,
) -> LoadSummary:
    """Fill an empty database with ``rows`` geometries; the same rows and seed give the same data.

    ``dsn`` must be a superuser's (extensions, publication, replica mode). ``passwords`` are given to the login roles
    (``app_reader``, ``app_editor``) on every call, hashed on this side. A second call changes nothing else;
    a database that holds anything else is refused.
    """
    if rows < 1:
        raise ConfigurationError(f"A demo catalogue needs at least 1 row, not {rows}", remedy="Give rows >= 1.")
    started = time.monotonic()
    tell = on_progress or _silent
    folder = (project_root or _project_root()) / "sql" / "demo"
    with _session(dsn) as connection, _only_loader(connection):
        mark = _mark(connection)
        if mark is None:
            _refuse_unless_empty(connection)
            _create(connection, folder, rows, seed, tell)
        else:
            _refuse_unless_same(connection, mark, rows, seed)
        _set_passwords(connection, passwords or {})
        tell("catalogue ready", 1.0)
        return _summary(connection, rows, seed, time.monotonic() - started, already_there=mark is not None)


def _silent(_message: str, _share: float) -> None:
    """Progress that nobody watches."""


def _create(connection: psycopg.Connection, folder: Path, rows: int, seed: int, tell: Progress) -> None:
    tell("roles and schema", 0.0)
    with connection.transaction():
        connection.execute(load("comporta.demo", "mark_create.sql"))
        connection.execute(load("comporta.demo", "mark_start.sql"), {"rows": rows, "seed": seed})
        _run(connection, folder / "00_roles.sql")
        _run(connection, folder / "10_schema.sql")
    tell("outlines", 0.03)
    _copy_outlines(connection)
    _run(connection, folder / "20_shapes.sql")
    _run(connection, folder / "30_rows.sql")
    _fill(connection, folder, rows, seed, tell)
    tell("indexes and statistics", 0.7)
    _run(connection, folder / "50_finish.sql")
    connection.execute(load("comporta.demo", "mark_finish.sql"))


def _fill(connection: psycopg.Connection, folder: Path, rows: int, seed: int, tell: Progress) -> None:
    """Write the rows with triggers and foreign keys asleep: keys hold by construction, and loading is no edit."""
    connection.execute("set session_replication_role = replica")
    for first in range(1, rows + 1, _BATCH):
        last = min(first + _BATCH - 1, rows)
        connection.execute("call comporta.demo_fill(%s, %s, %s, %s)", (first, last, rows, seed))
        tell(f"{last:,} of {rows:,} geometries", 0.1 + 0.55 * last / rows)
    connection.execute("select set_config('comporta_demo.seed', %s, false)", (str(seed),))
    _run(connection, folder / "40_children.sql")
    connection.execute("set session_replication_role = origin")


def _copy_outlines(connection: psycopg.Connection) -> None:
    connection.execute(load("comporta.demo", "outline_create.sql"))
    with connection.cursor().copy("copy comporta.demo_outline (number, name, geom) from stdin") as copy:
        for number, outline in enumerate(outlines()):
            copy.write_row((number, outline.name, outline.ewkb.hex()))
    connection.execute("analyze comporta.demo_outline")


def _run(connection: psycopg.Connection, path: Path) -> None:
    script = Script.read(path)
    for done, statement in enumerate(script.statements):
        try:
            connection.execute(statement.sql.encode())
        except psycopg.Error as error:
            raise StatementFailed(
                f"{path.name}:{statement.line}: {statement.headline}: {str(error).strip()}",
                remedy=f"{len(script.statements) - done} statements of the file did not run. "
                f"Put the cause right, then reset with: {_RESET}",
            ) from error


@contextmanager
def _session(dsn: str) -> Iterator[psycopg.Connection]:
    settings = {
        "application_name": "comporta demo loader",
        "client_min_messages": "warning",
        "jit": "off",
        "maintenance_work_mem": "256MB",
        "synchronous_commit": "off",
        "timezone": "UTC",
        "work_mem": "64MB",
    }
    try:
        connection = psycopg.connect(dsn, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise UnreachableServer(
            f"The demo catalogue's server does not let us in: {str(error).strip()}",
            remedy="Check that it runs, and the sign-in.",
        ) from error
    with connection:
        for name, value in settings.items():
            connection.execute("select set_config(%s, %s, false)", (name, value))
        yield connection


@contextmanager
def _only_loader(connection: psycopg.Connection) -> Iterator[None]:
    """Hold a session lock, so that two loaders never share a database; a killed loader gives it back by itself."""
    if not _value(connection, "select pg_try_advisory_lock(hashtext('comporta'), hashtext('demo'))"):
        raise UnsafeTarget(
            f'Another loader is filling the database "{connection.info.dbname}" now; nothing was changed',
            remedy="Wait until it has finished and call again: then this is a quick no-op.",
        )
    yield


def _mark(connection: psycopg.Connection) -> _Mark | None:
    if _value(connection, "select to_regclass('comporta.demo')") is None:
        return None
    row = connection.execute(load("comporta.demo", "mark_read.sql")).fetchone()
    return _Mark(*row) if row else None


def _refuse_unless_empty(connection: psycopg.Connection) -> None:
    found = [str(row[0]) for row in connection.execute(load("comporta.demo", "foreign_objects.sql"))]
    if found:
        raise UnsafeTarget(
            f'The database "{connection.info.dbname}" is not empty: expected nothing, found {len(found)} objects '
            f"such as {', '.join(found[:3])}; nothing was changed",
            remedy="The demo catalogue is only made in an empty database: name another one, or create one.",
        )


def _refuse_unless_same(connection: psycopg.Connection, mark: _Mark, rows: int, seed: int) -> None:
    name = connection.info.dbname
    if not mark.finished:
        raise CatalogueUnfinished(
            f'The demo catalogue in "{name}" is half made: its loading was cut short; nothing was changed',
            remedy=f'Reset it, then load again. In "{name}": {_RESET}',
        )
    if (mark.rows, mark.seed) != (rows, seed):
        raise CatalogueDiffers(
            f'The database "{name}" holds a demo catalogue of {mark.rows:,} rows (seed {mark.seed}), '
            f"asked for were {rows:,} (seed {seed}); nothing was changed",
            remedy=f'Keep it, or reset it and load again. In "{name}": {_RESET}',
        )


def _set_passwords(connection: psycopg.Connection, passwords: Mapping[str, str]) -> None:
    """Send only the SCRAM hash: a password in clear would reach the server's log."""
    for role, password in passwords.items():
        digest = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(digest)))


def _summary(
    connection: psycopg.Connection, rows: int, seed: int, seconds: float, *, already_there: bool
) -> LoadSummary:
    row = connection.execute(load("comporta.demo", "summary.sql")).fetchone()
    annotations, inspections, size_bytes = cast(tuple[int, int, int], row)
    return LoadSummary(rows, seed, annotations, inspections, size_bytes, round(seconds, 3), already_there)


def _value(connection: psycopg.Connection, query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def _project_root() -> Path:
    """Walk up from this file to the folder that holds ``sql/demo``."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "sql" / "demo" / "10_schema.sql").is_file():
            return folder
    raise ConfigurationError(
        f"sql/demo/10_schema.sql is in none of the folders above {Path(__file__).name}",
        remedy="Give project_root: the folder of the project that holds sql/.",
    )
