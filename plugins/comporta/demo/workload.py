"""The traffic itself, a process of its own: settings come on standard input, progress and record go to standard output.

Open loop: operations fall due on a schedule that does not wait for answers, so a stall of the server shows in full.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from comporta.demo.operations import (
    READS,
    WRITES,
    Client,
    Log,
    Reader,
    Writer,
    WrongAnswer,
    epoch_now,
    failure,
    take_sample,
)

_PING_S = 0.5


@dataclass(frozen=True)
class WorkloadSettings:
    """How much of what; half of the connections (at least 2) read, and ``drain_s`` is the patience after the stop."""

    reader_dsn: str
    editor_dsn: str
    reads_per_s: float
    writes_per_s: float
    seed: int
    connections: int
    search_share: float = READS["search"]
    drain_s: float = 30.0
    reader_role: str = "gis_reader"
    editor_role: str = "gis_editor"


# Returns the kind of what was really done: a delete with nothing to delete becomes a rename.
Perform = Callable[[str, Log, float], Awaitable[str]]


@dataclass(frozen=True)
class _Lane:
    """Operations that wait, as (due, kind), and the connections that take them in turn."""

    performers: list[Perform]
    is_write: bool = False
    queue: asyncio.Queue[tuple[float, str]] = field(default_factory=asyncio.Queue)


@dataclass(frozen=True)
class _Stream:
    """Operations that fall due at a rate, of kinds in given shares, for one lane."""

    per_s: float
    shares: dict[str, float]
    lane: _Lane


async def _serve(lane: _Lane, perform: Perform, log: Log) -> None:
    """Take operations from the queue for ever, one at a time; an error is a failed operation, never tried again."""
    while True:
        due, kind = await lane.queue.get()
        at, error = epoch_now(), None
        try:
            kind = await perform(kind, log, at)
        except (psycopg.Error, OSError, WrongAnswer) as problem:
            error = failure(problem)
        except asyncio.CancelledError:
            cut = "unfinished: cut off by the end of the traffic"
            log.operations.append((at, due, epoch_now() - at, kind, lane.is_write, cut))
            raise
        log.failed += error is not None
        log.operations.append((at, due, epoch_now() - at, kind, lane.is_write, error))
        lane.queue.task_done()


async def _schedule(stream: _Stream, dice: random.Random, log: Log) -> None:
    """Let operations wait in the lane: the nth falls due at a random moment of the nth slot of 1/rate seconds."""
    if stream.per_s <= 0:
        await asyncio.Event().wait()
    start, kinds, weights = epoch_now(), list(stream.shares), list(stream.shares.values())
    for slot in itertools.count():
        due = start + (slot + dice.random()) / stream.per_s
        await asyncio.sleep(max(0.0, due - epoch_now()))
        log.longest_lag_s = max(log.longest_lag_s, epoch_now() - due)
        stream.lane.queue.put_nowait((due, dice.choices(kinds, weights)[0]))


@dataclass(frozen=True)
class _Clients:
    """Connections by what they do: ``readers`` see what the public sees, ``viewer`` is an editor looking at the map."""

    readers: list[Client]
    viewer: Client
    writers: list[Client]

    @property
    def all(self) -> list[Client]:
        return [*self.readers, self.viewer, *self.writers]


@contextlib.asynccontextmanager
async def _clients(settings: WorkloadSettings) -> AsyncIterator[_Clients]:
    reading = max(2, settings.connections // 2)
    writing = max(1, settings.connections - reading)
    editor = settings.editor_dsn, settings.editor_role
    clients = _Clients(
        [Client(settings.reader_dsn, settings.reader_role, f"reader {number}") for number in range(reading - 1)],
        Client(*editor, "viewer"),
        [Client(*editor, f"writer {number}") for number in range(writing)],
    )
    try:
        for client in clients.all:
            await client.connection()
        yield clients
    finally:
        for client in clients.all:
            await client.close()


async def run(settings: WorkloadSettings, stop: Awaitable[object], say: Callable[[dict[str, Any]], None]) -> None:
    """Connect, say ``ready``, work until ``stop``, let what is under way finish, and say the ``record``."""
    log, dice = Log(), random.Random(settings.seed)  # noqa: S311 - dice that must repeat, no secret
    token = os.urandom(4).hex()
    async with _clients(settings) as clients:
        sample = await take_sample(clients.readers[0], clients.viewer, dice)
        writers = [
            Writer(client, sample, _fork(dice), number, len(clients.writers), token)
            for number, client in enumerate(clients.writers)
        ]
        if not sample.read_ids or any(writer.is_idle for writer in writers):
            raise RuntimeError("the catalogue has too few rows for so many connections: load more, or open fewer")
        streams = [
            _Stream(
                settings.reads_per_s * (1 - READS["read_map"]),
                {kind: share for kind, share in READS.items() if kind != "read_map"}
                | {"search": settings.search_share},
                _Lane([Reader(client, sample, _fork(dice)).perform for client in clients.readers]),
            ),
            _Stream(
                settings.reads_per_s * READS["read_map"],
                {"read_map": 1.0},
                _Lane([Reader(clients.viewer, sample, _fork(dice)).perform]),
            ),
            *(
                _Stream(settings.writes_per_s / len(writers), WRITES, _Lane([writer.perform], is_write=True))
                for writer in writers
            ),
        ]
        started = epoch_now()
        say({"ready": started})
        lanes = [stream.lane for stream in streams]
        serving = [asyncio.create_task(_serve(lane, perform, log)) for lane in lanes for perform in lane.performers]
        background = [asyncio.create_task(_schedule(stream, _fork(dice), log)) for stream in streams]
        background.append(asyncio.create_task(_report(log, lanes, say)))
        gc.freeze()
        await _until(stop, serving + background)
        await _cancel(background)
        await _drain(lanes, settings.drain_s)
        await _cancel(serving)
        _give_up(lanes, log)
        say({"record": _as_record(log, settings, started)})


def _fork(dice: random.Random) -> random.Random:
    return random.Random(dice.random())  # noqa: S311 - likewise


async def _until(stop: Awaitable[object], tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the stop; a task that ends before it has failed in a way that no measurement should hide."""
    stopping = asyncio.ensure_future(stop)
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done() and task.exception() is not None:
            raise RuntimeError("the traffic broke down") from task.exception()


async def _report(log: Log, lanes: list[_Lane], say: Callable[[dict[str, Any]], None]) -> None:
    while True:
        waiting = sum(lane.queue.qsize() for lane in lanes)
        say({"done": len(log.operations), "failed": log.failed, "waiting": waiting})
        await asyncio.sleep(_PING_S)


async def _drain(lanes: list[_Lane], patience_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(lane.queue.join() for lane in lanes)), patience_s)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _give_up(lanes: list[_Lane], log: Log) -> None:
    """Operations that never got their turn have failed too: leaving them out would hide the worst stall."""
    now, unsent = epoch_now(), "unsent: no connection became free before the end"
    for lane in lanes:
        while not lane.queue.empty():
            due, kind = lane.queue.get_nowait()
            log.operations.append((now, due, 0.0, kind, lane.is_write, unsent))


def _as_record(log: Log, settings: WorkloadSettings, started: float) -> dict[str, Any]:
    names = ("at", "due", "seconds", "kind", "is_write", "error")
    return {
        "started": started,
        "stopped": epoch_now(),
        "reads_per_s": settings.reads_per_s,
        "writes_per_s": settings.writes_per_s,
        "operations": [
            dict(zip(names, operation, strict=True)) for operation in sorted(log.operations, key=lambda each: each[0])
        ],
        "acknowledged": log.acknowledged,
        "unknown": log.unknown,
        "marks": [],
        "longest_lag_s": log.longest_lag_s,
    }


async def _main() -> None:
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    settings = WorkloadSettings(**json.loads(await stdin.readline()))

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), flush=True)

    try:
        # Any further line stops the traffic, and so does the end of the parent, which closes the pipe.
        await run(settings, stdin.readline(), say)
    except (psycopg.Error, OSError, RuntimeError) as error:
        say({"error": f"{error} {error.__cause__ or ''}".strip()})
        sys.exit(1)


if __name__ == "__main__":
    asyncio.run(_main())
