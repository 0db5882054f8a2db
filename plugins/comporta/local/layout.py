"""Where the files of a local installation are, and the addresses that they stand for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from comporta.local.account import Account

SERVER_FALLBACK = Path("/var/lib")


def server_root(preferred: Path, account: Account) -> Path:
    """Return ``preferred``, or a folder under /var/lib when the account that runs the servers cannot reach it."""
    preferred.mkdir(parents=True, exist_ok=True)
    if account.can_enter(preferred):
        return preferred
    digest = hashlib.sha256(str(preferred.resolve()).encode()).hexdigest()[:12]
    fallback = SERVER_FALLBACK / f"comporta-{digest}"
    fallback.mkdir(mode=0o755, parents=True, exist_ok=True)
    return fallback


@dataclass(frozen=True)
class Layout:
    """The git-ignored state folder of one checkout, and the project's own folders.

    ``place`` is the state folder of an installation beside that of ``make run``: it shares the code, and nothing else.
    """

    project: Path
    place: Path | None = None

    @property
    def state(self) -> Path:
        """Everything that a local installation keeps."""
        return self.place or self.project / ".comporta"

    @property
    def logs(self) -> Path:
        """Logs of the supervisor and of each Airflow process."""
        return self.state / "logs"

    @property
    def environment(self) -> Path:
        """KEY=VALUE lines that every program of this installation starts from; holds secrets, mode 0600."""
        return self.state / "env"

    @property
    def supervisor(self) -> Path:
        """What the supervisor started: process ids with their start times."""
        return self.state / "supervisor.json"

    @property
    def airflow_home(self) -> Path:
        """Airflow's own folder: generated configuration, task logs."""
        return self.state / "airflow"

    @property
    def passwords(self) -> Path:
        """Sign-in passwords of the web UI, JSON by user, mode 0600."""
        return self.state / "web-passwords.json"

    @property
    def mail(self) -> Path:
        """What the mail catcher kept, a file a mail."""
        return self.state / "mail"

    @property
    def dags(self) -> Path:
        """Airflow's DAG files."""
        return self.project / "dags"

    @property
    def archives(self) -> Path:
        """Reports, one folder a day."""
        return (self.place or self.project) / "archives"

    @property
    def anchors(self) -> Path:
        """Signed anchors of the ledger, beside the public keys that they are checked with."""
        return (self.place or self.project) / "anchors" / "ledger.jsonl"

    @property
    def anchor_key(self) -> Path:
        """The private key that signs anchors, mode 0600."""
        return self.state / "anchor-key.pem"
