"""Real servers for the tests: three private clusters of their own, kept between sessions, never those of ``make run``.

Each test session claims one folder of clusters with a file lock, so that sessions side by side do not meet. A fresh
catalogue is a copy of an idle golden database; it is built again when the SQL or the loader that made it changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psycopg
import pytest
from psycopg import sql

from comporta.demo.load import load_catalogue
from comporta.local.account import Account
from comporta.local.cluster import (
    CATALOGUE_DATABASE,
    CATALOGUE_SETTINGS,
    SHADOW_INITDB_OPTIONS,
    UNSAFE_SETTINGS,
    Cluster,
    StopMode,
)
from comporta.local.layout import server_root

PROJECT = Path(__file__).resolve().parents[2]
ROWS = 5_000
GOLDEN = "demo_golden"
FIRST_PORT = 55_600
SMALL = {"shared_buffers": "128MB", "max_wal_size": "512MB", "log_min_messages": "warning"}


@dataclass
class Server:
    """A test server; ``dsn`` is a superuser's conninfo to its main database."""

    cluster: Cluster
    main: str
    _golden_checked: bool = field(default=False, repr=False)

    @property
    def dsn(self) -> str:
        return self.cluster.dsn(self.main)

    def database(self, dbname: str) -> str:
        """Superuser conninfo to another database of this server."""
        return self.cluster.dsn(dbname)

    def start(self) -> None:
        self.cluster.start()

    def stop(self, mode: StopMode = "fast") -> None:
        self.cluster.stop(mode)

    def fresh_catalogue(self) -> str:
        """Replace the database ``gis`` by a copy of the golden one and return its conninfo.

        FORCE also ends pg_cron's launcher, which then stays away until the server restarts: that makes the copy
        quick. A test that wants jobs to run asks for the fixture ``cron``.
        """
        self.start()
        if not self._golden_checked:
            self._ensure_golden()
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as connection:
            _drop(connection, CATALOGUE_DATABASE)
            connection.execute(sql.SQL("create database {} template {}").format(*map(sql.Identifier, ("gis", GOLDEN))))
        return self.cluster.dsn(CATALOGUE_DATABASE)

    def _ensure_golden(self) -> None:
        wanted = golden_digest()
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as connection:
            found = connection.execute(
                "select shobj_description(oid, 'pg_database') from pg_database where datname = %s", [GOLDEN]
            ).fetchone()
            if found != (wanted,):
                self._build_golden(connection, wanted)
        self._golden_checked = True

    def _build_golden(self, connection: psycopg.Connection, digest: str) -> None:
        # pg_cron can only be installed in the database that its server names, so the golden one is made there and moved.
        for dbname in (GOLDEN, CATALOGUE_DATABASE):
            _drop(connection, dbname)
        connection.execute("create database gis")
        fill_catalogue(self.cluster.dsn(CATALOGUE_DATABASE), rows=ROWS)
        _end_sessions(connection, CATALOGUE_DATABASE)
        connection.execute(sql.SQL("alter database gis rename to {}").format(sql.Identifier(GOLDEN)))
        connection.execute(sql.SQL("comment on database {} is {}").format(sql.Identifier(GOLDEN), digest))


@dataclass(frozen=True)
class Servers:
    """The three servers of a test session."""

    control: Server
    target: Server
    shadow: Server

    def __iter__(self) -> Iterator[Server]:
        return iter((self.control, self.target, self.shadow))


def golden_digest() -> str:
    """Digest of everything that the golden database is made from."""
    digest = hashlib.sha256(str(ROWS).encode())
    for folder in ("sql/demo", "sql/support", "plugins/comporta/demo"):
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.is_file() and path.suffix in {".sql", ".py", ".json", ".gz", ".csv"}:
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def fill_catalogue(dsn: str, *, rows: int) -> None:
    """Load the demo catalogue and the support schema into an empty database."""
    load_catalogue(dsn, rows=rows)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for path in sorted((PROJECT / "sql/support").glob("*.sql")):
            connection.execute(path.read_bytes())
        connection.execute("vacuum analyze")


def _drop(connection: psycopg.Connection, dbname: str) -> None:
    connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(dbname)))


def _end_sessions(connection: psycopg.Connection, dbname: str, tries: int = 400) -> None:
    """End every session of a database and see it through; pg_cron's launcher arrives a moment after a server starts."""
    connection.execute(sql.SQL("alter database {} allow_connections false").format(sql.Identifier(dbname)))
    for _ in range(tries):
        left = connection.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [dbname]
        ).fetchall()
        if not left:
            break
    connection.execute(sql.SQL("alter database {} allow_connections true").format(sql.Identifier(dbname)))


def _claim_folder(root: Path) -> tuple[Path, IO[str]]:
    """Lock the first folder that no other session uses; the lock goes with the process."""
    for number in range(16):
        folder = root / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return folder, lock
    raise RuntimeError(f"16 test sessions already run in {root}")


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Three running servers with superuser access, stopped at the end of the session; their data stay for the next."""
    account = Account.current()
    folder, lock = _claim_folder(server_root(PROJECT / ".comporta-test", account))
    first = FIRST_PORT + 10 * int(folder.name)
    catalogue = {**CATALOGUE_SETTINGS, **UNSAFE_SETTINGS, **SMALL}
    crashing = {**catalogue, "synchronous_commit": "on"}  # tests crash the shadow and count its acknowledged writes
    shadow = Cluster("shadow", folder / "shadow", first + 2, crashing, initdb_options=SHADOW_INITDB_OPTIONS)
    made = Servers(
        control=Server(Cluster("control", folder / "control", first, {**UNSAFE_SETTINGS, **SMALL}), "comporta"),
        target=Server(Cluster("target", folder / "target", first + 1, catalogue), CATALOGUE_DATABASE),
        shadow=Server(shadow, CATALOGUE_DATABASE),
    )
    try:
        for server in made:  # one after the other: another checkout's tests may hold the ports that these would take
            others = {other.cluster.port for other in made if other is not server}
            server.cluster.choose_port(avoid=others)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(_bring_up, made))
        yield made
    finally:
        for server in made:
            server.stop("fast")
        lock.close()


def _bring_up(server: Server) -> None:
    if server.cluster.complete and server.cluster.made_with != server.cluster.initdb_options:
        server.cluster.remove()
    server.cluster.create()
    server.start()
    if server.main == CATALOGUE_DATABASE:
        server.fresh_catalogue()
    else:
        server.cluster.ensure_database(server.main)


@pytest.fixture(scope="module")
def free_shadow(servers: Servers) -> Iterator[str]:
    """Conninfo of the shadow without a golden copy of Comporta's own, for tests that clone the target to it."""
    with psycopg.connect(servers.shadow.database("postgres"), autocommit=True) as connection:
        _drop(connection, "gis_golden")
    yield servers.shadow.dsn
    with psycopg.connect(servers.shadow.database("postgres"), autocommit=True) as connection:
        _drop(connection, "gis_golden")
    servers.shadow.fresh_catalogue()


@pytest.fixture
def catalogue(servers: Servers) -> str:
    """Conninfo of a fresh demo catalogue of 5,000 rows with the support schema, in ``gis`` on the shadow server."""
    return servers.shadow.fresh_catalogue()


@pytest.fixture
def target_dsn(servers: Servers) -> str:
    """Conninfo of a fresh demo catalogue of 5,000 rows with the support schema, in ``gis`` on the target server."""
    return servers.target.fresh_catalogue()


@pytest.fixture
def control(servers: Servers) -> Iterator[str]:
    """Conninfo of a fresh empty database on the control server, dropped afterwards."""
    servers.control.start()
    dbname = f"control_{os.urandom(6).hex()}"
    servers.control.cluster.ensure_database(dbname)
    yield servers.control.database(dbname)
    servers.control.start()
    with psycopg.connect(servers.control.database("postgres"), autocommit=True) as connection:
        _drop(connection, dbname)


@pytest.fixture
def cron(servers: Servers, catalogue: str) -> str:
    """The fresh catalogue on the shadow with pg_cron's launcher at work: jobs of the minute run, once a minute."""
    servers.shadow.cluster.restart()
    with psycopg.connect(catalogue, autocommit=True) as connection:
        for _ in range(2_000):
            found = connection.execute(
                "select true from pg_stat_activity where backend_type = 'pg_cron launcher' and datname = 'gis'"
            ).fetchone()
            if found is not None:
                return catalogue
            connection.execute("select pg_sleep(0.01)")
    raise AssertionError("pg_cron's launcher did not come back after a restart")
