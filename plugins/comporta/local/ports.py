"""Loopback TCP ports: which are free, and who holds one that is not."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection
from pathlib import Path

from comporta.errors import ComportaError

LOOPBACK = "127.0.0.1"


class NoFreePort(ComportaError):
    """None of the ports that were tried is free."""


def is_free(port: int) -> bool:
    """True when a server could listen on ``port`` now, on loopback and on all addresses."""
    for address in (LOOPBACK, "0.0.0.0"):  # noqa: S104 - bound for an instant, never listened on
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def first_free(preferred: int, *, avoid: Collection[int] = (), tries: int = 200) -> int:
    """Return ``preferred`` or the next free port above it that is not in ``avoid``; NoFreePort after ``tries``."""
    for port in range(preferred, min(preferred + tries, 65536)):
        if port not in avoid and is_free(port):
            return port
    raise NoFreePort(
        f"no free port between {preferred} and {preferred + tries - 1}", remedy="Stop a program that listens there."
    )


def holder(port: int, proc: Path = Path("/proc")) -> str:
    """Name the process that listens on ``port``, such as ``nginx (pid 812)``; a plain phrase when it cannot be seen."""
    inodes = _listening_inodes(port, proc)
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for process in proc.glob("[0-9]*"):
        if sockets & _open_files(process):
            return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return "a program of another user" if inodes else "a program that could not be seen"


def _open_files(process: Path) -> set[str]:
    """What the process has open; files come and go while one looks, and other users' are hidden."""
    found = set()
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(link.readlink()))
    return found


def _listening_inodes(port: int, proc: Path) -> set[str]:
    listening, inodes = "0A", set()
    for table in ("tcp", "tcp6"):
        try:
            rows = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (row.split() for row in rows):
            if fields[3] == listening and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(fields[9])
    return inodes
