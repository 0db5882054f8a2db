"""Applies the plain-SQL migrations of the control database, each once, in the order of their names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import psycopg

from comporta.ledger.errors import MigrationRefused
from comporta.postgres.queries import load
from comporta.settings import project_root


def migrations_folder() -> Path:
    """Where the project keeps the migrations of the control database."""
    return project_root() / "sql" / "control"


@dataclass(frozen=True)
class _File:
    name: str
    sha256: str
    content: bytes


def migrate(conn: psycopg.Connection, directory: Path | None = None) -> tuple[str, ...]:
    """Apply what is missing in ``directory`` (else the project's), all in one transaction; return the names.

    Runs under an advisory lock: of several runners one works, the others wait and find nothing to do. MigrationRefused
    names a file that changed after it was applied, that is gone, or that comes before one applied already.
    """
    directory = directory or migrations_folder()
    files = _read(directory)
    with conn.transaction():
        conn.execute(load("comporta.ledger", "migration_lock.sql"))
        missing = _missing(files, _applied(conn), directory)
        for file in missing:
            conn.execute(file.content)
            conn.execute(load("comporta.ledger", "migration_record.sql"), (file.name, file.sha256))
    return tuple(file.name for file in missing)


def _read(directory: Path) -> list[_File]:
    files = []
    for path in sorted(directory.glob("[0-9][0-9][0-9][0-9]_*.sql")):
        content = path.read_bytes()
        files.append(_File(path.name, hashlib.sha256(content).hexdigest(), content))
    if not files:
        raise MigrationRefused(f"{directory}: holds no migration (NNNN_name.sql)", remedy="Check the path.")
    return files


def _applied(conn: psycopg.Connection) -> dict[str, str]:
    exists = conn.execute(load("comporta.ledger", "migration_exists.sql")).fetchone()
    if exists is None or not exists[0]:
        return {}
    return dict(conn.execute(load("comporta.ledger", "migration_applied.sql")).fetchall())


def _missing(files: list[_File], applied: dict[str, str], directory: Path) -> list[_File]:
    on_disk = {file.name: file.sha256 for file in files}
    last = max(applied, default="")
    for name, sha256 in sorted(applied.items()):
        if name not in on_disk:
            raise MigrationRefused(
                f"migration {name} is applied in the database but is not in {directory}; nothing was applied",
                remedy="The database is newer than this code: update the code.",
            )
        if on_disk[name] != sha256:
            raise MigrationRefused(
                f"migration {name} changed after it was applied: expected sha256 {sha256[:12]}, "
                f"found {on_disk[name][:12]}; nothing was applied",
                remedy=f"Restore {name} as it was, and put the change into a new migration.",
            )
    missing = [file for file in files if file.name not in applied]
    for file in missing:
        if file.name < last:
            raise MigrationRefused(
                f"migration {file.name} comes before {last}, which is applied already; nothing was applied",
                remedy=f"Give {file.name} a number after {last}.",
            )
    return missing
