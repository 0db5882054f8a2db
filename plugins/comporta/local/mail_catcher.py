"""A mail server that delivers nothing: it keeps each mail as a file, so that mails can be read without a mail server.

``python -m comporta.local.mail_catcher`` listens where the connection ``smtp_default`` of this installation leads.
"""

from __future__ import annotations

import email
import email.policy
import itertools
import logging
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from comporta.local.layout import Layout
from comporta.local.ports import LOOPBACK
from comporta.settings import project_root

log = logging.getLogger("comporta.mail_catcher")


class MailFolder:
    """Takes every mail and writes it to a folder, whole or not at all; its name says when and to whom."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = itertools.count(1)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep one mail and say so in the log."""
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content).encode()
        to = ",".join(envelope.rcpt_tos)
        safe = "".join(character if character.isalnum() or character in "-_.@," else "-" for character in to)[:80]
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{next(self._count)}-{safe}"
        part, file = self._folder / f"{name}.part", self._folder / f"{name}.eml"
        part.write_bytes(content)
        part.replace(file)
        subject = email.message_from_bytes(content, policy=email.policy.default)["Subject"]
        log.info("to %s: %s (%s)", to, subject, file)
        return "250 kept"


def serve(folder: Path, port: int, until: threading.Event) -> None:
    """Keep mail that comes to ``port`` on loopback until told to end."""
    folder.mkdir(parents=True, exist_ok=True)
    controller = Controller(MailFolder(folder), hostname=LOOPBACK, port=port)
    controller.start()
    log.info("keeps mail that comes to %s:%s in %s, and delivers none", LOOPBACK, port, folder)
    try:
        until.wait()
    finally:
        controller.stop()


def port_of(connection: str) -> int:
    """The port that an Airflow connection in the form of an address leads to."""
    port = urlsplit(connection).port
    assert port is not None, "the connection of a local installation names its port"
    return port


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # the library's word for every command of a session
    ending = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ending.set())
    serve(Layout(project_root()).mail, port_of(os.environ["AIRFLOW_CONN_SMTP_DEFAULT"]), ending)


if __name__ == "__main__":
    main()
