"""One user at a time for each shadow server, whoever started the work: a task of Airflow, the command line, a bench."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from comporta.postgres.connection import connect, describe, with_database

_CLASS = 0x53_48_44  # "SHD": the class of our advisory locks


@contextmanager
def lease(control_dsn: str, shadows: Sequence[str], say: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """Give one of the ``shadows`` (DSNs) to the caller alone, waiting for it while all are in use.

    The lease is an advisory lock in the control database: it ends with the process that holds it, however that ends.
    """
    with connect(control_dsn, name="comporta/lease") as conn:
        chosen = None
        for shadow in shadows:
            row = conn.execute("select pg_try_advisory_lock(%s, hashtext(%s))", (_CLASS, _server(shadow))).fetchone()
            if row == (True,):
                chosen = shadow
                break
        if chosen is None:
            chosen = random.choice(shadows)  # noqa: S311 - spreads those who wait, no secret
            say(f"waiting for {describe(chosen)}: every shadow server is in use")
            conn.execute("select pg_advisory_lock(%s, hashtext(%s))", (_CLASS, _server(chosen)))
        yield chosen


def _server(dsn: str) -> str:
    """Host and port: whichever user or database a connection string names, the server is one."""
    return describe(with_database(dsn, "postgres")).split("@", 1)[1]
