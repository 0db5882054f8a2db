"""The mail catcher keeps every mail as a file, and ends when told to."""

from __future__ import annotations

import logging
import smtplib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from comporta.local.mail_catcher import port_of, serve


@pytest.fixture
def catcher(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    ending = threading.Event()
    thread = threading.Thread(target=serve, args=(tmp_path / "mail", port, ending))
    thread.start()
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            threading.Event().wait(0.02)
    yield tmp_path / "mail", port
    ending.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_every_mail_is_a_file_and_a_line_of_the_log(
    catcher: tuple[Path, int], caplog: pytest.LogCaptureFixture
) -> None:
    folder, port = catcher
    with caplog.at_level(logging.INFO), smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
        for who in ("cfo@localhost", "../po@localhost"):
            client.sendmail("comporta@localhost", [who], f"Subject: Go or No-Go?\r\nTo: {who}\r\n\r\nhello\r\n")
    kept = sorted(folder.iterdir())
    assert [path.suffix for path in kept] == [".eml", ".eml"]
    assert all(path.parent == folder for path in kept)
    assert b"hello" in kept[0].read_bytes()
    assert "to cfo@localhost: Go or No-Go?" in caplog.text


def test_the_port_is_that_of_the_connection() -> None:
    assert port_of("smtp://127.0.0.1:1026/?disable_ssl=true") == 1026
