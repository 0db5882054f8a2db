"""A port that someone listens on is never chosen, and its holder is named."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from comporta.local import ports


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"], ids=["loopback", "all addresses"])  # noqa: S104 - bound, not served
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as listener:
        listener.bind((request.param, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_passed_over(taken: int) -> None:
    """The next free one above is chosen."""
    assert not ports.is_free(taken)
    assert ports.first_free(taken) > taken


def test_a_port_to_avoid_is_passed_over(taken: int) -> None:
    """Two servers that are about to start do not choose the same port."""
    free = ports.first_free(taken)
    assert ports.first_free(free, avoid={free}) > free


def test_the_holder_is_named(taken: int) -> None:
    """The message tells a person which program to stop."""
    assert ports.holder(taken).endswith(f"(pid {os.getpid()})")


def test_running_out_of_ports_is_an_error_in_words(taken: int) -> None:
    """The range that was tried is named."""
    with pytest.raises(ports.NoFreePort, match=f"no free port between {taken} and {taken}"):
        ports.first_free(taken, tries=1)
