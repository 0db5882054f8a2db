"""Connections that say who they are, fail in words, and know which server they reached."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from comporta.errors import ConfigurationError, UnreachableServer, UnsafeTarget

Connection = psycopg.Connection[tuple[Any, ...]]


def connect(
    dsn: str, *, name: str, lock_timeout_ms: int = 0, statement_timeout_ms: int = 0, client_check_ms: int = 500
) -> Connection:
    """Open an autocommit connection with application_name ``name``; 0 means no time-out.

    When this process is gone, its statement ends on the server within ``client_check_ms``, where the server can see that
    (PostgreSQL 14 and later, on Linux, macOS and the BSDs); 0 lets it run to its end.
    Raises UnreachableServer naming host, port, database and reason, never the password.
    """
    options = f"-c lock_timeout={lock_timeout_ms} -c statement_timeout={statement_timeout_ms}"
    try:
        conn = psycopg.connect(with_options(dsn, options), application_name=name, autocommit=True, connect_timeout=10)
        _end_with_client(conn, client_check_ms)
        return conn
    except psycopg.OperationalError as error:
        raise UnreachableServer(
            f"cannot connect to {describe(dsn)}: {_reason(error)}",
            remedy="Check that the server runs, the address, the user and the password.",
        ) from None


def _end_with_client(conn: Connection, check_ms: int) -> None:
    if conn.info.server_version < 140_000 or not check_ms:
        return
    with suppress(psycopg.errors.InvalidParameterValue):  # the server's operating system cannot tell
        conn.execute(sql.SQL("set client_connection_check_interval = {}").format(check_ms))


def with_options(dsn: str, options: str) -> str:
    """Add libpq ``options`` to those that ``dsn`` has already."""
    given = str(_parse(dsn).get("options") or "")
    return make_conninfo(dsn, options=f"{given} {options}".strip())


def with_database(dsn: str, database: str) -> str:
    """The same server and user, another database."""
    return make_conninfo("", **{**_parse(dsn), "dbname": database})


def database_name(dsn: str) -> str:
    """The database that ``dsn`` names; libpq's default is the user's name."""
    parts = _parse(dsn)
    return str(parts.get("dbname") or parts.get("user") or "postgres")


def describe(dsn: str) -> str:
    """``user@host:port/database``, for messages; never the password."""
    parts = _parse(dsn)
    host = parts.get("host") or parts.get("hostaddr") or "local socket"
    return f"{parts.get('user', 'default user')}@{host}:{parts.get('port', 5432)}/{database_name(dsn)}"


def _parse(dsn: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(dsn))
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            "a connection string cannot be read (its text is withheld because it may hold a password)",
            remedy="Expected libpq form, such as 'host=127.0.0.1 port=5432 dbname=gis user=comporta'.",
        ) from None  # its text quotes what it could not read


def _reason(error: psycopg.OperationalError) -> str:
    text = " ".join(str(error).split())
    return text.removeprefix("connection failed: ")


@dataclass(frozen=True)
class ServerIdentity:
    """Which server and database a connection reached: two names for one server give the same identity."""

    system_identifier: int
    database: str
    version_num: int
    port: int
    is_standby: bool


def identify(conn: Connection) -> ServerIdentity:
    """Ask the server who it is. The system identifier is drawn at initdb and survives renames and port changes."""
    row = conn.execute(
        "select (pg_catalog.pg_control_system()).system_identifier, current_database(),"
        " current_setting('server_version_num')::int, current_setting('port')::int, pg_catalog.pg_is_in_recovery()"
    ).fetchone()
    assert row is not None
    return ServerIdentity(*row)


def refuse_same_server(target: ServerIdentity, shadow: ServerIdentity) -> None:
    """Raise UnsafeTarget when the shadow is on the target's server: clones are dropped and created there.

    A physical standby has its primary's system identifier, so a replica of the target is refused as well.
    """
    if target.system_identifier == shadow.system_identifier:
        raise UnsafeTarget(
            f"the shadow is the target's own server (or a physical copy of it): both have system identifier "
            f"{target.system_identifier}; expected another cluster, found database {shadow.database} on port {shadow.port}",
            remedy="Point COMPORTA_SHADOW_DSN at a server that is never production. Nothing was changed.",
        )
