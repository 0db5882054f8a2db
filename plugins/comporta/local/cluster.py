"""One private PostgreSQL server: its own directory, port and password, on loopback only."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from comporta.errors import ComportaError
from comporta.local import ports
from comporta.local.account import Account

StopMode = Literal["smart", "fast", "immediate"]

SUPERUSER = "postgres"
CATALOGUE_DATABASE = "gis"

# Small enough for a machine of two cores that also runs Airflow; wal_level serves the publication of the catalogue.
BASE_SETTINGS: Mapping[str, str] = {
    "listen_addresses": ports.LOOPBACK,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "wal_level": "logical",
    "max_connections": "120",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "maintenance_work_mem": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "log_min_messages": "warning",
    "log_lock_waits": "on",
    "deadlock_timeout": "1s",
}

# pg_cron starts its jobs as background workers here: its other way is a connection, which would need a password.
CATALOGUE_SETTINGS: Mapping[str, str] = {
    "shared_preload_libraries": "pg_cron,pg_stat_statements",
    "cron.database_name": CATALOGUE_DATABASE,
    "cron.use_background_workers": "on",
    "cron.timezone": "UTC",
    "max_worker_processes": "16",
    "shared_buffers": "256MB",
    "track_io_timing": "on",
}

# For clusters that tests throw away: a power cut may eat them.
UNSAFE_SETTINGS: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}

# A quota on file size may be no smaller than a WAL segment: with small ones a full disk can be tried on small data.
SHADOW_INITDB_OPTIONS = ("--wal-segsize=1",)

REQUIRED_EXTENSIONS = ("postgis", "pg_cron", "pg_trgm", "unaccent", "pg_stat_statements")


class ServerProgramsMissing(ComportaError):
    """No installed PostgreSQL has all the extensions that the catalogue needs."""


class ClusterFailed(ComportaError):
    """A step of making, starting or stopping a cluster failed; its log is named."""


def find_programs(root: Path = Path("/usr/lib/postgresql"), share: Path = Path("/usr/share/postgresql")) -> Path:
    """Return the ``bin`` directory of the newest PostgreSQL that has every extension needed; ServerProgramsMissing else."""
    versions = sorted((path for path in root.glob("[0-9]*") if path.name.isdigit()), key=lambda path: -int(path.name))
    for version in versions:
        control_files = (share / version.name / "extension" / f"{name}.control" for name in REQUIRED_EXTENSIONS)
        if (version / "bin" / "initdb").exists() and all(path.exists() for path in control_files):
            return version / "bin"
    found = ", ".join(version.name for version in versions) or "none"
    raise ServerProgramsMissing(
        f"no PostgreSQL with {', '.join(REQUIRED_EXTENSIONS)} under {root} (versions found: {found})",
        remedy="Run `make packages`: it installs what is missing, or prints the command for an administrator.",
    )


@dataclass
class Cluster:
    """A server named ``name`` under ``directory``; nothing outside that directory is ever touched.

    ``port`` is the preferred port: the one in use is chosen at the start when that is taken, and remembered.
    """

    name: str
    directory: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    account: Account = field(default_factory=Account.current)
    programs: Path = field(default_factory=find_programs)
    initdb_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self._marker.exists():
            self.port = json.loads(self._marker.read_text())["port"]

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """The server's log; it and the data belong to the account that runs the server."""
        return self.directory / "log" / "server.log"

    @property
    def password(self) -> str:
        """The superuser's password, from a file that only the owner of the project reads."""
        return self._secret.read_text().strip()

    @property
    def pid(self) -> int | None:
        """Process id of the running server, None when it is down or the pid file names some other process."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            return pid if Path(f"/proc/{pid}/cwd").resolve(strict=True) == self.data.resolve() else None
        except (OSError, ValueError):
            return None

    @property
    def running(self) -> bool:
        """True when this very cluster has a live server."""
        return self.pid is not None

    def dsn(self, dbname: str = "postgres", **options: str) -> str:
        """Superuser conninfo for one database of this cluster."""
        return make_conninfo(
            host=ports.LOOPBACK,
            port=self.port,
            user=SUPERUSER,
            password=self.password,
            dbname=dbname,
            connect_timeout=10,
            **options,
        )

    def choose_port(self, *, avoid: Collection[int] = ()) -> None:
        """Settle on a port that is free and not in ``avoid``; a running server keeps its own."""
        if self.running:
            return
        port = ports.first_free(self.port, avoid=avoid)
        if self.complete and port != self.port:
            self._remember(port, self.made_with)
        self.port = port

    @property
    def complete(self) -> bool:
        """True when the cluster was made to the end."""
        return self._marker.exists() and (self.data / "PG_VERSION").exists()

    @property
    def made_with(self) -> tuple[str, ...]:
        """The ``initdb_options`` that a complete cluster was made with; they hold until it is removed, whatever is asked now."""
        return tuple(json.loads(self._marker.read_text()).get("initdb_options", ()))

    def create(self) -> bool:
        """Make the cluster unless it is complete; a half-made one is made anew. Returns True when it was made."""
        if self.complete:
            return False
        self._clear_away()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.account.own(self.data)
        self.account.own(self.log.parent)
        self._write_private(self._secret, secrets.token_urlsafe(24))
        self._initdb()
        self._remember(self.port, self.initdb_options)
        return True

    def start(self, *, wait_s: int = 60) -> None:
        """Start the server unless it runs already, on the remembered port or, when that is taken, the next free one."""
        if self.running:
            return
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.choose_port()
        self._configure()
        command: list[str | Path] = [
            self.programs / "pg_ctl",
            "-D",
            self.data,
            "-l",
            self.log,
            "-w",
            "-t",
            str(wait_s),
            "start",
        ]
        if self.account.run(command, output=self._control_log).returncode != 0:
            raise ClusterFailed(f"the {self.name} server did not start:\n{self._log_tail()}", remedy=f"See {self.log}.")

    def stop(self, mode: StopMode = "fast", *, wait_s: int = 60) -> bool:
        """Stop the server; True when it was running. ``immediate`` is a crash: the next start recovers from the WAL."""
        if not self.running:
            return False
        command: list[str | Path] = [
            self.programs / "pg_ctl",
            "-D",
            self.data,
            "-m",
            mode,
            "-w",
            "-t",
            str(wait_s),
            "stop",
        ]
        if self.account.run(command, output=self._control_log).returncode != 0 and self.running:
            raise ClusterFailed(f"the {self.name} server did not stop within {wait_s} s", remedy=f"See {self.log}.")
        return True

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop, then start on the same port."""
        self.stop(mode)
        self.start()

    def remove(self) -> None:
        """Stop the server and delete the cluster's directory."""
        self.stop("immediate")
        self._clear_away()

    def ensure_database(self, dbname: str) -> bool:
        """Create a database unless it is there; True when it was created."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            if connection.execute("select from pg_database where datname = %s", [dbname]).fetchone() is not None:
                return False
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(dbname)))
            return True

    @property
    def _marker(self) -> Path:
        """Written last when the cluster is made: without it the directory is half-made."""
        return self.directory / "complete.json"

    @property
    def _secret(self) -> Path:
        return self.directory / "password"

    @property
    def _control_log(self) -> Path:
        return self.directory / "control.log"

    def _clear_away(self) -> None:
        self._marker.unlink(missing_ok=True)
        if self.running:
            self.stop("immediate")
        # All else in here is small and ours: logs, marks of what was done to this cluster.
        shutil.rmtree(self.directory, ignore_errors=True)

    def _initdb(self) -> None:
        # The account reads the password file, which therefore cannot be the private one.
        with tempfile.NamedTemporaryFile("w", prefix="comporta-") as pwfile:
            pwfile.write(self.password)
            pwfile.flush()
            if self.account.switch:
                os.chown(pwfile.name, self.account.uid, self.account.gid)
            command: list[str | Path] = [self.programs / "initdb", "-D", self.data, "-U", SUPERUSER, "-E", "UTF8"]
            command += ["--locale=C.UTF-8", "-A", "scram-sha-256", f"--pwfile={pwfile.name}", "--no-sync"]
            command += self.initdb_options
            if self.account.run(command, output=self._control_log).returncode != 0:
                tail = self._control_log.read_text(errors="replace")[-1500:]
                raise ClusterFailed(
                    f"initdb of the {self.name} cluster failed:\n{tail}", remedy=f"See {self._control_log}."
                )

    def _configure(self) -> None:
        values = {**BASE_SETTINGS, **self.settings, "port": str(self.port)}
        lines = [f"{key} = '{value}'\n" for key, value in values.items()]
        settings = self.data / "comporta.conf"
        settings.write_text("".join(lines))
        include = "include 'comporta.conf'\n"
        main = self.data / "postgresql.conf"
        if include not in main.read_text():
            with main.open("a") as stream:
                stream.write(include)
        if self.account.switch:
            os.chown(settings, self.account.uid, self.account.gid)

    def _remember(self, port: int, initdb_options: tuple[str, ...]) -> None:
        self.port = port
        kept = {"name": self.name, "port": port, "initdb_options": initdb_options}
        self._write_private(self._marker, json.dumps(kept))

    def _write_private(self, path: Path, text: str) -> None:
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(text + "\n")
        partial.replace(path)

    def _log_tail(self, lines: int = 12) -> str:
        for path in (self.log, self._control_log):
            if path.exists() and (text := path.read_text(errors="replace").strip()):
                return "\n".join(text.splitlines()[-lines:])
        return "(no log)"
