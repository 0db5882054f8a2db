"""The one server that every tool runs on: fresh copies of one catalogue, and a judge who is nobody's tool."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from comporta.demo.load import load_catalogue
from comporta.errors import ComportaError
from comporta.ledger import migrate
from comporta.local.account import Account
from comporta.local.cluster import CATALOGUE_SETTINGS, Cluster
from comporta.local.layout import server_root
from comporta.postgres.connection import Connection, connect, with_database
from comporta.postgres.execution import run_script
from comporta.proof.checksum import TableChecksum, checksum_tables, diff_checksums
from comporta.proof.fingerprint import SEQUENCE_POSITIONS, Fingerprint, diff, take
from comporta.release.model import Release
from comporta.settings import project_root

from .tools import registry_left_out

# pg_cron works in the database of this name only, so every tool's copy has it, one after the other.
CATALOGUE, GOLDEN, LEDGER = "gis", "gis_golden", "comporta_peers_ledger"
_MARK = "comporta: peers bench"
WATCHER = "peers bench"


class NotOurs(ComportaError):
    """The server has databases of these names already; they would be dropped."""


@contextmanager
def own_server(name: str = "peers") -> Iterator[str]:
    """A private cluster of one bench alone, stopped afterwards."""
    root = server_root(project_root() / ".comporta" / "bench", Account.current())
    cluster = Cluster(f"bench-{name}", root / name, 55_720, CATALOGUE_SETTINGS)
    cluster.choose_port()
    cluster.create()
    cluster.start()
    try:
        yield cluster.dsn()
    finally:
        cluster.stop()


@dataclass(frozen=True)
class Judgement:
    """What the catalogue has that it had not before, or the other way round, in words."""

    differences: tuple[str, ...]

    @property
    def restored(self) -> bool:
        """As if nothing had been."""
        return not self.differences


@dataclass
class Server:
    """``dsn`` is a superuser's. ``prepare`` first; ``tidy_up`` drops what was made."""

    dsn: str
    release: Release
    before: tuple[Fingerprint, dict[str, TableChecksum]] | None = None

    @property
    def catalogue(self) -> str:
        """Connection string of the copy in use."""
        return with_database(self.dsn, CATALOGUE)

    def prepare(self, rows: int) -> None:
        """Load the demo catalogue and the support schema once, and keep them aside. Raises NotOurs."""
        with self._maintenance() as conn:
            self._refuse_others(conn)
        self.tidy_up()
        with self._maintenance() as conn:
            conn.execute(f"create database {CATALOGUE}")
            self._mark(conn, CATALOGUE)
        load_catalogue(self.catalogue, rows=rows)
        with connect(self.catalogue, name=WATCHER) as conn:
            for script in self.release.support:
                run_script(conn, script)
            conn.execute("vacuum (freeze, analyze)")
        with self._maintenance() as conn:
            self._end_sessions(conn)
            conn.execute(f"alter database {CATALOGUE} rename to {GOLDEN}")
            self._mark(conn, GOLDEN)
            conn.execute("checkpoint")

    def fresh(self) -> str:
        """Replace the copy in use; ends every session on it, pg_cron's launcher among them, so no job ever runs."""
        with self._maintenance() as conn:
            conn.execute(f"drop database if exists {CATALOGUE} with (force)")
            conn.execute(f"create database {CATALOGUE} template {GOLDEN} strategy file_copy")
            self._mark(conn, CATALOGUE)
        if self.before is None:
            self.before = self._measure()
        return self.catalogue

    def fresh_ledger(self) -> str:
        """An empty ledger in a database of its own."""
        with self._maintenance() as conn:
            conn.execute(f"drop database if exists {LEDGER} with (force)")
            conn.execute(f"create database {LEDGER}")
            self._mark(conn, LEDGER)
        dsn = with_database(self.dsn, LEDGER)
        with connect(dsn, name=WATCHER) as conn:
            migrate(conn)
        return dsn

    def judge(self) -> Judgement:
        """Compare the copy in use with the catalogue before; a tool's own tables do not count."""
        assert self.before is not None
        found = self._measure()
        differences = diff(self.before[0], found[0], ignore=(SEQUENCE_POSITIONS,))
        differences += diff_checksums(self.before[1], found[1])
        return Judgement(tuple(text for text in map(str, differences) if registry_left_out(text)))

    def cpu_seconds(self) -> float | None:
        """CPU of the server's ended sessions so far; None when the server is not on this machine."""
        with suppress(OSError, psycopg.Error, ValueError):
            with self._maintenance() as conn:
                row = conn.execute("select current_setting('data_directory')").fetchone()
            pid = Path(str((row or [""])[0]), "postmaster.pid").read_text().split("\n", 1)[0]
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[13]) + int(fields[14])) / 100
        return None

    def tidy_up(self) -> None:
        """Drop the databases that carry this bench's mark."""
        with self._maintenance() as conn:
            for name in self._marked(conn):
                conn.execute(f'drop database "{name}" with (force)')

    def _measure(self) -> tuple[Fingerprint, dict[str, TableChecksum]]:
        with connect(self.catalogue, name=WATCHER) as conn:
            return take(conn), checksum_tables(conn)

    def _maintenance(self) -> Connection:
        return connect(with_database(self.dsn, "postgres"), name=WATCHER)

    def _refuse_others(self, conn: Connection) -> None:
        names = [CATALOGUE, GOLDEN, LEDGER]
        there = {name for (name,) in conn.execute("select datname from pg_database where datname = any (%s)", (names,))}
        if others := there - set(self._marked(conn)):
            raise NotOurs(
                f"the server has {', '.join(sorted(others))} already, not made by this bench",
                remedy="Give it a server without such databases, or none: then it makes a cluster of its own.",
            )

    def _marked(self, conn: Connection) -> list[str]:
        found = conn.execute(
            "select d.datname from pg_database d join pg_shdescription c on c.objoid = d.oid"
            " and c.classoid = 'pg_database'::regclass where c.description = %s",
            (_MARK,),
        )
        return [name for (name,) in found]

    def _mark(self, conn: Connection, database: str) -> None:
        conn.execute(f"comment on database {database} is '{_MARK}'")

    def _end_sessions(self, conn: Connection) -> None:
        """Wait for pg_cron's launcher to appear, end it with the rest: ended, it stays away until the server's next start."""
        here = "from pg_stat_activity where datname = %s"
        wait_until(lambda: bool(conn.execute(f"select {here} and backend_type ~ 'pg_cron'", (CATALOGUE,)).rowcount), 3)
        conn.execute(f"select pg_terminate_backend(pid, 5000) {here}", (CATALOGUE,))


def wait_until(true: Callable[[], bool], limit_s: float, every_s: float = 0.005) -> bool:
    """Ask again and again; False when the time is over."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(every_s)
    return False
