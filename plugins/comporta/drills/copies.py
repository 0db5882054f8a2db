"""Private copies of a server for a drill: made by pg_basebackup, started apart, gone with the drill.

The server that is copied is read through a replication connection and nothing else. A copy listens on no port: only a
socket in a folder of its own, which nobody but the account that runs it can enter. What a copy of production could do to
the outside is off in it: jobs of pg_cron, logical replication, archiving.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import class_row

from comporta.drills.model import CannotDrill
from comporta.errors import ComportaError
from comporta.local.account import Account
from comporta.local.cluster import Cluster
from comporta.postgres.connection import connect, describe
from comporta.postgres.queries import load

_SPARE_BYTES = 512 * 2**20
_LONGEST_SOCKET = 107
_FIRST_PORT = 5432
_SENDERS_FOR_A_BACKUP = 2
_ACT_ON_THE_OUTSIDE = frozenset({"pg_cron"})


class BackupFailed(ComportaError):
    """pg_basebackup came to no end; the server that it read is as it was."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A server that can be copied; ``settings`` are those that a copy must share, ``bytes`` the size of its databases."""

    major: int
    wal_level: str
    free_wal_senders: int
    may_replicate: bool
    signed_in_as: str
    superuser: str
    bytes: int
    settings: Mapping[str, str]
    tablespaces: Mapping[str, str]
    dsn: str = field(default="", repr=False)

    @classmethod
    def read(cls, dsn: str) -> Self:
        """Look at the server behind ``dsn``; CannotDrill names everything that keeps it from being copied."""
        with connect(dsn, name="comporta/drill") as conn, conn.cursor(row_factory=class_row(cls)) as cursor:
            found = cursor.execute(load("comporta.drills", "source_server.sql")).fetchone()
        assert found is not None
        if missing := found._missing():
            raise CannotDrill(
                f"{describe(dsn)} cannot be copied: {'; '.join(missing)}",
                remedy="Put that right with whoever runs the server, or drill on a server where it is.",
            )
        _try_replication(dsn, found.signed_in_as)
        return cls(**{**vars(found), "dsn": dsn})

    @property
    def programs(self) -> Path:
        """The folder of the server programs of this version; CannotDrill when this machine does not have them."""
        folder = Path(os.environ.get("COMPORTA_PG_BIN") or f"/usr/lib/postgresql/{self.major}/bin")
        if not (folder / "pg_basebackup").exists() or not (folder / "postgres").exists():
            raise CannotDrill(
                f"the server runs PostgreSQL {self.major}, whose programs are not on this machine (looked in {folder})",
                remedy=f"Install postgresql-{self.major} and the extensions of the server, "
                "or set COMPORTA_PG_BIN to the folder that holds them.",
            )
        return folder

    def _missing(self) -> list[str]:
        missing = []
        if self.wal_level == "minimal":
            missing.append("wal_level is minimal, expected replica or logical (a restart of the server)")
        if not self.may_replicate:
            missing.append(f"{self.signed_in_as} may not replicate (alter role {self.signed_in_as} replication)")
        if self.free_wal_senders < _SENDERS_FOR_A_BACKUP:
            missing.append(
                f"{max(self.free_wal_senders, 0)} WAL senders are free, a base backup takes {_SENDERS_FOR_A_BACKUP} "
                "(max_wal_senders)"
            )
        return missing


@dataclass(frozen=True)
class Copy:
    """A running or stopped copy; ``dsn`` signs in as the superuser that the copied server has."""

    cluster: Cluster
    superuser: str

    def dsn(self, dbname: str) -> str:
        """Conninfo for one database, through the socket."""
        return make_conninfo(
            host=str(_socket_folder(self.cluster)), port=self.cluster.port, user=self.superuser, dbname=dbname
        )


def either(copies: Sequence[Copy], dbname: str) -> str:
    """Conninfo that finds whichever copy takes writes: what an application needs to follow a failover by itself."""
    return make_conninfo(
        host=",".join(str(_socket_folder(copy.cluster)) for copy in copies),
        port=",".join(str(copy.cluster.port) for copy in copies),
        user=copies[0].superuser,
        dbname=dbname,
        target_session_attrs="read-write",
    )


@contextmanager
def private_folder(source: Source, *, copies: int) -> Iterator[Path]:
    """A folder with room for ``copies`` of the server, removed at the end, whatever the end is."""
    account = Account.current()
    folder = Path(tempfile.mkdtemp(prefix="comporta-drill-"))
    try:
        account.own(folder)
        _check_folder(folder, account, needed=copies * source.bytes + _SPARE_BYTES)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def copied(
    source: Source, folder: Path, name: str, *, rate_mb_per_s: int, gentle: bool = False, follow: bool = False
) -> Iterator[Copy]:
    """Copy ``source`` under ``folder``; stopped at the end. ``gentle`` waits for the source's own next checkpoint.

    ``follow`` makes it a standby that streams from the source, under the application name ``name``.
    """
    account = Account.current()
    cluster = Cluster(
        name, folder / name, _FIRST_PORT, account=account, programs=source.programs,
        settings=_settings(source, folder / name, follow=name if follow else ""),
    )  # fmt: skip
    account.own(cluster.directory)
    for part in (cluster.data, cluster.log.parent, _socket_folder(cluster)):
        account.own(part)
    try:
        _base_backup(source, cluster, rate_mb_per_s, gentle=gentle)
        _make_ours(cluster, follow=follow)
        yield Copy(cluster, source.superuser)
    finally:
        cluster.stop("immediate")


def _try_replication(dsn: str, role: str) -> None:
    """Sign in once as pg_basebackup will: pg_hba.conf has lines of its own for it."""
    try:
        with psycopg.connect(
            make_conninfo(dsn, replication="true"), autocommit=True, connect_timeout=10, cursor_factory=psycopg.ClientCursor
        ) as conn:  # fmt: skip
            conn.execute("IDENTIFY_SYSTEM")
    except psycopg.Error as error:
        raise CannotDrill(
            f"{describe(dsn)} does not let {role} in for replication: {' '.join(str(error).split())}",
            remedy=f"Add to its pg_hba.conf: host replication {role} <this machine>/32 scram-sha-256, and reload.",
        ) from None


def _check_folder(folder: Path, account: Account, *, needed: int) -> None:
    if not account.can_enter(folder):
        raise CannotDrill(
            f"the account {account.name}, which runs the copies, cannot enter {folder}",
            remedy="Set TMPDIR to a folder that it can enter, such as /var/tmp.",
        )
    if len(str(folder)) > _LONGEST_SOCKET - 50:
        raise CannotDrill(
            f"the path {folder} is too long to hold a server's socket", remedy="Set TMPDIR to a shorter one."
        )
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CannotDrill(
            f"the copies need {needed / 2**20:,.0f} MiB, {folder} has {free / 2**20:,.0f} MiB",
            remedy="Set TMPDIR to a folder with room for them.",
        )


def _settings(source: Source, directory: Path, *, follow: str) -> dict[str, str]:
    preloaded = (name.strip() for name in source.settings.get("shared_preload_libraries", "").split(","))
    settings = {
        **source.settings,
        "max_wal_senders": str(max(10, int(source.settings["max_wal_senders"]))),
        "shared_preload_libraries": ",".join(name for name in preloaded if name and name not in _ACT_ON_THE_OUTSIDE),
        "max_logical_replication_workers": "0",
        "archive_mode": "off",
        "ssl": "off",
        "listen_addresses": "",
        "unix_socket_directories": str(directory / "socket"),
    }
    if follow:
        upstream: dict[str, Any] = {**conninfo_to_dict(source.dsn), "application_name": follow}
        upstream.pop("dbname", None)
        settings["primary_conninfo"] = make_conninfo("", **upstream)
    return settings


def _base_backup(source: Source, cluster: Cluster, rate_mb_per_s: int, *, gentle: bool) -> None:
    parts = conninfo_to_dict(source.dsn)
    password = parts.pop("password", None)
    spaces = cluster.directory / "tablespaces"
    cluster.account.own(spaces)
    command: list[str | Path] = [
        source.programs / "pg_basebackup", f"--dbname={make_conninfo('', **parts)}", "-D", cluster.data,
        "--wal-method=stream", "--no-slot", "--no-sync", "--no-password", f"--max-rate={rate_mb_per_s}M",
        f"--checkpoint={'spread' if gentle else 'fast'}",
    ]  # fmt: skip
    command += [f"--tablespace-mapping={path}={spaces / oid}" for oid, path in source.tablespaces.items()]
    log = cluster.directory / "backup.log"
    environment = {"PGPASSWORD": str(password)} if password else {}
    if cluster.account.run(command, output=log, env=environment).returncode != 0:
        said = "\n  ".join(log.read_text(errors="replace").strip().splitlines()[-6:])
        raise BackupFailed(
            f"the base backup of {describe(source.dsn)} failed:\n  {said}",
            remedy="The server was only read. Correct the cause and drill again.",
        )


def _make_ours(cluster: Cluster, *, follow: bool) -> None:
    """Replace the configuration that came along: addresses, archiving and upstreams of the real server are in it."""
    for name in ("standby.signal", "recovery.signal", "pg_ident.conf"):
        (cluster.data / name).unlink(missing_ok=True)
    _write(cluster, "postgresql.conf", "")
    _write(cluster, "postgresql.auto.conf", "")
    _write(cluster, "pg_ident.conf", "")
    # The socket's folder can be entered by the account that runs the copy, and by root.
    _write(cluster, "pg_hba.conf", "local all all trust\nlocal replication all trust\n")
    if follow:
        _write(cluster, "standby.signal", "")


def _write(cluster: Cluster, name: str, text: str) -> None:
    path = cluster.data / name
    path.write_text(text)
    if cluster.account.switch:
        os.chown(path, cluster.account.uid, cluster.account.gid)


def _socket_folder(cluster: Cluster) -> Path:
    return cluster.directory / "socket"
