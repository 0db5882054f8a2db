"""PostgreSQL's own client programs, found where distributions put them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from comporta.errors import ConfigurationError


def client_program(name: str) -> str:
    """Full path of ``pg_dump``, ``pg_restore`` and the like: the newest of Debian's versioned folders, else PATH.

    A client newer than the server works; an older one is refused by PostgreSQL.
    """
    if folder := os.environ.get("COMPORTA_PG_BIN"):
        return str(Path(folder) / name)
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which(name)
    if not found:
        raise ConfigurationError(
            f"the PostgreSQL client program {name} was not found",
            remedy="Install postgresql-client, or set COMPORTA_PG_BIN to the folder that holds it.",
        )
    return found


def run_client(program: str, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a client program on ``dsn`` with its output captured; it never asks for a password, and may fail.

    The password goes through the environment: a command line can be read by every user of the machine.
    """
    parts = conninfo_to_dict(dsn)
    environment = dict(os.environ)
    if password := parts.pop("password", None):
        environment["PGPASSWORD"] = str(password)
    command = [client_program(program), f"--dbname={make_conninfo('', **parts)}", "--no-password", *arguments]
    return subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
