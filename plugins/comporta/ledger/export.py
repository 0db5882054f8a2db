"""Copies of the ledger for people without the database: JSON lines, which can be verified by themselves, and SQLite.

JSON lines: for each block one line with its numbers and digests, then one line for each of its events. The payload comes last in a
line, spelt as the database spells it, because that is what was hashed. An export of one stream has no blocks: no chain covers it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import Struct
from typing import IO, Any

import psycopg
from psycopg.rows import tuple_row

from comporta.ledger.errors import ExportRefused
from comporta.ledger.verification import Anchored, Block, Broken, Chain, Copied, Verification, encode
from comporta.postgres.queries import load

Progress = Callable[[int, int], None]

_PAGE = 5_000
_FIELDS = (
    "id",
    "stream",
    "version",
    "feature",
    "event_type",
    "workflow",
    "phase",
    "actor",
    "timestamp",
    "idempotency_key",
)
_PAYLOAD = b',"payload":'
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_INT8, _INT4 = Struct(">q").pack, Struct(">i").pack
_BEFORE_RECORD = bytes(6)
_TABLE = """
create table events (id integer primary key, feature text not null, event_type text not null, workflow text, phase text,
                     payload text not null, timestamp text not null)
"""


def export(
    conn: psycopg.Connection,
    path: Path,
    *,
    stream: str | None = None,
    until: datetime | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write ``path`` (.jsonl or .sqlite), whole or not at all, from one snapshot; return the number of events.

    ExportRefused when the file exists and ``force`` is not given. ``until`` keeps what was recorded by then.
    """
    kinds: dict[str, Callable[[Path, psycopg.Connection, dict[str, Any], Callable[[int], None]], int]] = {
        ".jsonl": _to_lines,
        ".sqlite": _to_sqlite,
    }
    if path.suffix not in kinds:
        raise ExportRefused(f"{path}: expected a name that ends in .jsonl or .sqlite", remedy="Choose one of them.")
    with _whole(path, force=force) as partial, conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        with conn.cursor(row_factory=tuple_row) as cursor:
            upto, total = cursor.execute(
                load("comporta.ledger", "export_size.sql"), {"until": until, "stream": stream}
            ).fetchone() or (0, 0)
        report = (lambda done: progress(done, total)) if progress else (lambda _: None)
        return kinds[path.suffix](partial, conn, {"upto": upto, "stream": stream}, report)


def verify_lines(path: Path, anchors: Sequence[Anchored] = ()) -> Verification:
    """Check an export in JSON lines with nothing but the file; ExportRefused when it has no chain in it."""
    chain = Chain(anchors)
    broken = None
    with path.open("rb") as lines:
        first = lines.readline()
        if first and not first.startswith(b'{"block":'):
            raise ExportRefused(
                f"{path}: is an export of one stream, and no chain covers a single stream",
                remedy="Verify an export of the whole ledger.",
            )
        try:
            while first:
                block, first = _check_block(chain, first, lines)
                chain.check(*block)
            chain.compare_end()
        except Broken as found:
            broken = found
    return chain.verdict(broken)


def _check_block(chain: Chain, line: bytes, lines: IO[bytes]) -> tuple[tuple[Block, Iterator[Copied]], bytes]:
    try:
        said = json.loads(line)
        block = Block(
            said["block"],
            said["first_id"],
            said["last_id"],
            *(bytes.fromhex(said[name]) for name in ("leaves", "prev_hash", "hash")),
        )
        rows: list[Copied] = []
        following = lines.readline()
        while following and not following.startswith(b'{"block":'):
            rows.append(_BEFORE_RECORD + _encoded(following))
            following = lines.readline()
    except (ValueError, KeyError, TypeError) as error:
        raise Broken(chain.blocks + 1, None, f"block {chain.blocks + 1}: a line cannot be read: {error}") from None
    if len(rows) > block.last_id - block.first_id + 1:
        raise Broken(block.n, block.last_id + 1, f"block {block.n} is followed by more events than it covers")
    return (block, iter(rows)), following


def _encoded(line: bytes) -> bytes:
    head, _, payload = line.rstrip(b"\n").partition(_PAYLOAD)
    said = json.loads(head + b"}")
    moment = (datetime.fromisoformat(said["timestamp"]) - _EPOCH) // timedelta(microseconds=1)

    def text(name: str) -> bytes | None:
        return None if said[name] is None else str(said[name]).encode()

    return encode(
        (
            _INT8(said["id"]),
            text("stream") or b"",
            _INT4(said["version"]),
            text("feature") or b"",
            text("event_type") or b"",
            text("workflow"),
            text("phase"),
            b"\x01" + payload[:-1],
            text("actor") or b"",
            _INT8(moment),
            text("idempotency_key"),
        )
    )


def _to_lines(path: Path, conn: psycopg.Connection, values: dict[str, Any], report: Callable[[int], None]) -> int:
    events = _events(conn, values)
    done = 0
    with path.open("w", encoding="utf-8") as file:
        if values["stream"] is None:
            for n, first_id, last_id, leaves, prev_hash, digest in _rows(conn, "export_blocks.sql", values):
                block = {"block": n, "first_id": first_id, "last_id": last_id, "leaves": leaves.hex()}
                file.write(json.dumps({**block, "prev_hash": prev_hash.hex(), "hash": digest.hex()}) + "\n")
                for _ in range(last_id - first_id + 1):
                    if (event := next(events, None)) is None:
                        break
                    file.write(_line(*event))
                    done += 1
                report(done)
        for event in events:
            file.write(_line(*event))
            done += 1
            if done % _PAGE == 0:
                report(done)
        file.flush()
        os.fsync(file.fileno())
    report(done)
    return done


def _line(*fields: Any) -> str:
    id_, stream, version, feature, event_type, workflow, phase, payload, actor, timestamp, key = fields
    moment = timestamp.astimezone(UTC).isoformat(timespec="microseconds")
    values = (id_, stream, version, feature, event_type, workflow, phase, actor, moment, key)
    head = json.dumps(dict(zip(_FIELDS, values, strict=True)), ensure_ascii=False)
    return f'{head[:-1]},"payload":{payload}}}\n'


def _to_sqlite(path: Path, conn: psycopg.Connection, values: dict[str, Any], report: Callable[[int], None]) -> int:
    done = 0
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(_TABLE)
        for id_, _, _, feature, event_type, workflow, phase, payload, _, timestamp, _ in _events(conn, values):
            moment = timestamp.astimezone(UTC).isoformat(timespec="microseconds")
            file.execute(
                "insert into events values (?, ?, ?, ?, ?, ?, ?)",
                (id_, feature, event_type, workflow, phase, payload, moment),
            )
            done += 1
            if done % _PAGE == 0:
                report(done)
    report(done)
    return done


def _events(conn: psycopg.Connection, values: dict[str, Any]) -> Iterator[Any]:
    return _rows(conn, "export_events.sql", values)


def _rows(conn: psycopg.Connection, name: str, values: dict[str, Any]) -> Iterator[Any]:
    with conn.cursor(name=name.removesuffix(".sql"), row_factory=tuple_row) as cursor:
        cursor.itersize = _PAGE
        yield from cursor.execute(load("comporta.ledger", name), values)


@contextmanager
def _whole(path: Path, *, force: bool) -> Iterator[Path]:
    """A file beside ``path`` that takes its place when all went well, and is gone otherwise."""
    if path.exists() and not force:
        raise _exists(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        if force:
            partial.replace(path)
        else:
            os.link(partial, path)  # fails when somebody made it meanwhile
    except FileExistsError:
        raise _exists(path) from None
    finally:
        partial.unlink(missing_ok=True)


def _exists(path: Path) -> ExportRefused:
    return ExportRefused(f"{path} exists; nothing was written", remedy="Choose another name, or add --force.")
