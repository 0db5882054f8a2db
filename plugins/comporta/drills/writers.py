"""Who writes while a server fails over: the demo catalogue's traffic, or one writer on a table of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import psycopg

from comporta.demo.losses import lost_writes
from comporta.demo.traffic import Traffic
from comporta.postgres.connection import connect
from comporta.postgres.queries import load

_BETWEEN_WRITES_S = 0.02
_BETWEEN_ATTEMPTS_S = 0.05


@dataclass(frozen=True)
class Written:
    """``answers`` are the epoch seconds of acknowledgements; ``lost(dsn)`` names the acknowledged writes not found there."""

    answers: tuple[float, ...]
    unanswered: int
    lost: Callable[[str], list[str]]


class Writers(Protocol):
    """Writes from ``writers`` until ``stop``; they look for the server that takes writes whenever they lose one."""

    description: str

    def answered(self) -> int:
        """How many operations were answered without an error so far."""

    def stop(self) -> Written:
        """End the writing and say what came of it."""


@contextmanager
def writers(dsn: str, *, demo: bool) -> Iterator[Writers]:
    """The writers that suit the database behind ``dsn``, at work until the block ends."""
    if demo:
        with Traffic(dsn, reads_per_s=50, writes_per_s=50, drain_s=10) as traffic:
            yield _DemoWriters(traffic)
        return
    writer = _LoneWriter(dsn)
    writer.start()
    try:
        yield writer
    finally:
        writer.end()


def holds_demo(dsn: str) -> bool:
    """True when the database is a finished demo catalogue, whose traffic we know how to make."""
    with connect(dsn, name="comporta/drill") as conn:
        if conn.execute("select to_regclass('comporta.demo')").fetchone() == (None,):
            return False
        mark = conn.execute(load("comporta.demo", "mark_read.sql")).fetchone()
    return bool(mark and mark[2])


@dataclass
class _DemoWriters:
    traffic: Traffic
    description: str = "the demo catalogue's traffic, 50 reads/s and 50 writes/s,"

    def answered(self) -> int:
        progress = self.traffic.progress()
        return progress.done - progress.failed

    def stop(self) -> Written:
        record = self.traffic.stop()
        answers = (each.ended for each in record.operations if each.is_write and each.error is None)
        return Written(
            tuple(sorted(answers)),
            len(record.unknown),
            lambda dsn: [f"{loss.action} {loss.table} {loss.id}: {loss.found}" for loss in lost_writes(dsn, record)],
        )


@dataclass
class _LoneWriter:
    """One row a commit into ``comporta_drill.written``, numbered; a number is used once, whether answered or not."""

    dsn: str
    description: str = "one writer on a table of its own"
    acknowledged: dict[int, float] = field(default_factory=dict)
    attempts: int = 0
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("create schema comporta_drill create table written (n bigint primary key)")
        self._thread = threading.Thread(target=self._work, name="drill writer", daemon=True)
        self._thread.start()

    def answered(self) -> int:
        return len(self.acknowledged)

    def end(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(10)

    def stop(self) -> Written:
        self.end()
        return Written(tuple(self.acknowledged.values()), self.attempts - len(self.acknowledged), self._missing)

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as conn:
                    while not self._ending.wait(_BETWEEN_WRITES_S):
                        self._write(conn)
            except psycopg.Error:
                self._ending.wait(_BETWEEN_ATTEMPTS_S)

    def _write(self, conn: psycopg.Connection) -> None:
        self.attempts += 1
        number = self.attempts
        conn.execute("insert into comporta_drill.written values (%s)", (number,))
        self.acknowledged[number] = time.time()

    def _missing(self, dsn: str) -> list[str]:
        with connect(dsn, name="comporta/drill") as conn:
            there = {n for (n,) in conn.execute("select n from comporta_drill.written")}
        return [f"write {number}" for number in sorted(self.acknowledged.keys() - there)]
