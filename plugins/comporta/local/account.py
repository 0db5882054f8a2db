"""The operating system account that PostgreSQL servers run under: oneself, or ``postgres`` when started by root."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comporta.errors import ComportaError


class NoServerAccount(ComportaError):
    """Started by root, which PostgreSQL refuses, and there is no account to run the servers under."""


@dataclass(frozen=True)
class Account:
    """Who owns the data directories and runs the servers; ``switch`` is True when that is not the current user."""

    name: str
    uid: int
    gid: int
    switch: bool

    @classmethod
    def current(cls) -> Account:
        """The current user; for root the account ``postgres``. NoServerAccount when root finds no such account."""
        if os.geteuid() != 0:
            entry = pwd.getpwuid(os.geteuid())
            return cls(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=False)
        try:
            entry = pwd.getpwnam("postgres")
        except KeyError as error:
            raise NoServerAccount(
                "PostgreSQL does not run as root, and this machine has no account named postgres",
                remedy="Install postgresql-common (it adds the account), or start as an ordinary user.",
            ) from error
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=True)

    def run(
        self, command: Sequence[str | Path], *, output: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end as this account, in a session of its own; both streams are appended to ``output``."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC", **(env or {})}
        with output.open("ab") as stream:
            return subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd="/",
                env=environment,
                start_new_session=True,
                check=False,
                user=self.uid if self.switch else None,
                group=self.gid if self.switch else None,
                extra_groups=os.getgrouplist(self.name, self.gid) if self.switch else None,
            )

    def own(self, directory: Path) -> None:
        """Make ``directory`` (created when missing) private to this account."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.switch:
            os.chown(directory, self.uid, self.gid)
        directory.chmod(0o700)

    def can_enter(self, directory: Path) -> bool:
        """True when this account may pass through ``directory``, which must exist, and all its parents."""
        if not self.switch:
            return os.access(directory, os.X_OK)
        probe = subprocess.run(
            ["/usr/bin/test", "-x", str(directory)],
            cwd="/",
            check=False,
            user=self.uid,
            group=self.gid,
            extra_groups=os.getgrouplist(self.name, self.gid),
        )
        return probe.returncode == 0
