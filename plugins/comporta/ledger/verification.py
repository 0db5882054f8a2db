"""An independent check of the ledger: every digest recomputed here, from the rows, with nothing of ours on the server.

The encoding of an event is the wire format of its row: the number of fields, then for each field the oid of its type,
its length (-1 for null) and its bytes. Lengths come first, so no two different rows share an encoding, and moving
characters from one field to the next changes it.

    leaf  = sha256(encoding of the event)
    hash  = sha256(0x03, n, first_id, last_id, sha256(0x02, leaves of the block in order), hash of the block before)

An encoding begins with 0x00, so neither kind of input can be passed off as another. What a chain cannot show is that
its end was cut off or that all of it was rewritten: for that, anchors (signed heads kept elsewhere) are compared with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, islice
from struct import Struct

import psycopg
from psycopg import sql

from comporta.postgres.queries import load

_sha256 = hashlib.sha256
_INT8, _INT4, _TEXT, _JSONB, _TIMESTAMPTZ = 20, 23, 25, 3802, 1184
_TYPES = (_INT8, _TEXT, _INT4, _TEXT, _TEXT, _TEXT, _TEXT, _JSONB, _TEXT, _TIMESTAMPTZ, _TEXT)
_FIELD = Struct(">Ii").pack
_BLOCK = Struct(">qqq").pack
_COUNT = Struct(">i").pack(len(_TYPES))
_BEFORE_ID = _COUNT + _FIELD(_INT8, 8)
_BEFORE_VERSION = _FIELD(_INT4, 4)
_BEFORE_TIMESTAMP = _FIELD(_TIMESTAMPTZ, 8)
_NULL_TEXT = _FIELD(_TEXT, -1)
_GENESIS = bytes(32)

# A binary COPY: a signature, then for each row the number of columns (1) and the length of the record before the
# record itself, then -1. In the record, the id and the length of the stream's name stand at fixed places.
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_RECORD = 6
_ID_AND_LENGTH = Struct(">q4xi").unpack_from
_AT_ID = _RECORD + 12
_AT_STREAM = _AT_ID + 16
_VERSION = Struct(">8xi").unpack_from
_EVENTS_PER_PAGE = 100_000

Copied = bytes | bytearray | memoryview
Row = tuple[bytes, bytes, bytes, bytes, bytes, bytes | None, bytes | None, bytes, bytes, bytes, bytes | None]


@dataclass(frozen=True)
class Head:
    """The last block of a chain: what an anchor outside the database has to keep."""

    n: int
    last_id: int
    hash: bytes


@dataclass(frozen=True)
class Anchored:
    """A head that was signed as anchor ``number`` at a time: the chain had it then, so it must have it now."""

    number: int
    head: Head
    at: datetime


@dataclass(frozen=True)
class Verification:
    """What was found: how many events and blocks hold, and the first that does not, in words (``what``).

    ``anchors`` of them hold; ``unanchored`` events behind the last one, the first of which was recorded at
    ``unanchored_since``, could be rewritten unnoticed.
    """

    ok: bool
    events: int
    blocks: int
    head: Head | None = None
    first_bad_block: int | None = None
    first_bad_event: int | None = None
    what: str = ""
    anchors: int = 0
    bad_anchor: int | None = None
    unanchored: int = 0
    unanchored_since: datetime | None = None


class _Broken(Exception):
    def __init__(self, block: int | None, event: int | None, what: str, anchor: int | None = None) -> None:
        self.block, self.event, self.what, self.anchor = block, event, what, anchor


@dataclass(frozen=True)
class _Block:
    n: int
    first_id: int
    last_id: int
    leaves: bytes
    prev_hash: bytes
    hash: bytes


def verify(
    conn: psycopg.Connection,
    *,
    progress: Callable[[int, int], None] | None = None,
    anchors: Sequence[Anchored] = (),
) -> Verification:
    """Recompute the whole chain in one snapshot and stop at the first break; ``progress(events done, of)`` on the way.

    The chain must also contain every head in ``anchors``. ``conn`` must not be in a transaction. Appends go on meanwhile;
    they are not part of the snapshot.
    """
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        conn.execute("set local client_encoding to 'UTF8'")
        total = _size(conn)
        walk = _Walk(conn, _blocks_per_page(*total), anchors)
        broken = None
        try:
            for done in walk.pages():
                if progress:
                    progress(done, total[0])
            walk.compare_end()
            if walk.events != total[0]:
                raise _Broken(None, None, f"{total[0]} events, but the chain covers {walk.events}")
        except _Broken as found:
            broken = found
        covered = max((a.head.last_id for a in anchors), default=0)
        tail = conn.execute(load("comporta.ledger", "unanchored.sql"), (covered,)).fetchone() or (0, None)
    sound = Verification(
        True, walk.events, walk.blocks, walk.head, anchors=walk.held, unanchored=tail[0], unanchored_since=tail[1]
    )
    if broken is None:
        return sound
    return replace(
        sound,
        ok=False,
        first_bad_block=broken.block,
        first_bad_event=broken.event,
        what=broken.what,
        bad_anchor=broken.anchor,
    )


class _Walk:
    """One pass over the chain; ``events``, ``blocks`` and ``head`` count what has held so far."""

    def __init__(self, conn: psycopg.Connection, blocks_per_page: int, anchors: Sequence[Anchored]) -> None:
        self.conn = conn
        self.anchors: dict[int, list[Anchored]] = {}
        for anchored in anchors:
            self.anchors.setdefault(anchored.head.n, []).append(anchored)
        self.held = 0
        self.blocks_per_page = blocks_per_page
        self.events = 0
        self.blocks = 0
        self.head: Head | None = None
        self.versions: dict[bytes, int] = {}

    def pages(self) -> Iterator[int]:
        """Check page after page, and give the number of events that have held."""
        while page := self._blocks():
            with _copy(self.conn, self._last_id, page[-1].last_id) as rows:
                for block in page:
                    self._check(block, rows)
                    if block.n in self.anchors:
                        self._compare(block)
            yield self.events
        with _copy(self.conn, self._last_id, 2**63 - 1):
            pass  # an event behind the last block is a stray

    def compare_end(self) -> None:
        """Every anchor must have been met on the way: one for a later block tells that the end is gone."""
        beyond = [a for n, several in self.anchors.items() if n > self.blocks for a in several]
        if not beyond:
            return
        first = min(beyond, key=lambda a: a.head.n)
        last = max(beyond, key=lambda a: a.head.n)
        raise _Broken(
            self.blocks + 1,
            self.events + 1,
            f"the chain was cut off from block {self.blocks + 1} (event {self.events + 1}) on: anchor {first.number} was signed "
            f"for block {first.head.n}, and anchor {last.number} of {last.at.isoformat()} for block {last.head.n} "
            f"(event {last.head.last_id})",
            first.number,
        )

    def _compare(self, block: _Block) -> None:
        for anchored in self.anchors[block.n]:
            if (block.last_id, block.hash) != (anchored.head.last_id, anchored.head.hash):
                raise _Broken(
                    block.n,
                    None,
                    f"block {block.n} is not the one that anchor {anchored.number} of {anchored.at.isoformat()} was signed "
                    f"for: the chain was computed anew from a block behind the anchor before it on",
                    anchored.number,
                )
            self.held += 1

    @property
    def _last_id(self) -> int:
        return self.head.last_id if self.head else 0

    def _blocks(self) -> list[_Block]:
        query = load("comporta.ledger", "blocks.sql")
        return [_Block(*row) for row in self.conn.execute(query, (self.blocks, self.blocks_per_page), binary=True)]

    def _check(self, block: _Block, rows: Iterator[Copied]) -> None:
        last_id, hash_before = (self.head.last_id, self.head.hash) if self.head else (0, _GENESIS)
        if block.n != self.blocks + 1:
            raise _Broken(self.blocks + 1, None, f"block {self.blocks + 1} is missing; the next is {block.n}")
        if block.prev_hash != hash_before:
            raise _Broken(block.n, None, f"block {block.n} does not follow the block before it")
        if block.first_id != last_id + 1 or block.last_id < block.first_id:
            covers = f"{block.first_id}..{block.last_id}"
            raise _Broken(block.n, None, f"block {block.n} covers {covers}, expected {last_id + 1}..")
        leaves, misnumbered = self._leaves(block, rows)
        if leaves != block.leaves:
            raise _first_difference(block, leaves)
        digest = _sha256(b"\x02" + leaves).digest()
        if (
            _sha256(b"\x03" + _BLOCK(block.n, block.first_id, block.last_id) + digest + hash_before).digest()
            != block.hash
        ):
            raise _Broken(block.n, None, f"the hash of block {block.n} is not that of its content")
        if misnumbered:
            raise misnumbered
        self.head = Head(block.n, block.last_id, block.hash)
        self.blocks = block.n
        self.events = block.last_id

    def _leaves(self, block: _Block, rows: Iterator[Copied]) -> tuple[bytes, _Broken | None]:
        """The digests of the block's events, and what is wrong with their versions should their digests agree."""
        digests = []
        versions = self.versions
        expected = block.first_id
        misnumbered = None
        for row in islice(rows, block.last_id - block.first_id + 1):
            found, length = _ID_AND_LENGTH(row, _AT_ID)
            if found != expected:
                raise _Broken(block.n, expected, f"event {expected} of block {block.n} is missing; the next is {found}")
            stream = bytes(row[_AT_STREAM : _AT_STREAM + length])
            (version,) = _VERSION(row, _AT_STREAM + length)
            wanted = versions.get(stream, 0) + 1
            if version != wanted and misnumbered is None:
                place = f'event {found} of block {block.n} is version {version} of stream "{stream.decode()}"'
                misnumbered = _Broken(block.n, found, f"{place}, expected {wanted}")
            versions[stream] = version
            digests.append(_sha256(row[_RECORD:]).digest())
            expected += 1
        if expected <= block.last_id:
            raise _Broken(block.n, expected, f"event {expected} of block {block.n} is missing")
        return b"".join(digests), misnumbered


def encode(row: Row) -> bytes:
    """The encoding written out, from the fields in binary format: for whoever has the fields but no server."""
    id_, stream, version, feature, event_type, workflow, phase, payload, actor, timestamp, key = row
    return b"".join(
        (
            _BEFORE_ID,
            id_,
            _text(stream),
            _BEFORE_VERSION,
            version,
            _text(feature),
            _text(event_type),
            _text(workflow),
            _text(phase),
            _FIELD(_JSONB, len(payload)),
            payload,
            _text(actor),
            _BEFORE_TIMESTAMP,
            timestamp,
            _NULL_TEXT if key is None else _FIELD(_TEXT, len(key)) + key,
        )
    )


def _text(value: bytes | None) -> bytes:
    return _NULL_TEXT if value is None else _FIELD(_TEXT, len(value)) + value


def _first_difference(block: _Block, leaves: bytes) -> _Broken:
    for event_id in range(block.first_id, block.last_id + 1):
        at = 32 * (event_id - block.first_id)
        if leaves[at : at + 32] != block.leaves[at : at + 32]:
            return _Broken(block.n, event_id, f"event {event_id} of block {block.n} is not the one that was appended")
    return _Broken(block.n, None, f"block {block.n} holds digests for more events than it covers")


def _size(conn: psycopg.Connection) -> tuple[int, int]:
    row = conn.execute(load("comporta.ledger", "size.sql")).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def _blocks_per_page(events: int, blocks: int) -> int:
    return min(20_000, max(100, _EVENTS_PER_PAGE * blocks // max(events, 1)))


@contextmanager
def _copy(conn: psycopg.Connection, after: int, upto: int) -> Iterator[Iterator[Copied]]:
    """The rows of the events with ``after < id <= upto``, as the bytes that the server sends."""
    query = sql.SQL(load("comporta.ledger", "events_copy.sql")).format(after=sql.Literal(after), upto=sql.Literal(upto))
    with conn.cursor() as cursor, cursor.copy(query) as copy:
        rows = _rows(copy)
        yield rows
        if (row := next(rows, None)) is not None:  # reading to the end also ends the COPY
            stray, _ = _ID_AND_LENGTH(row, _AT_ID)
            raise _Broken(None, stray, f"event {stray} belongs to no block: it was not appended")


def _rows(copy: psycopg.Copy) -> Iterator[Copied]:
    messages = iter(copy)
    first = next(messages, _SIGNATURE + b"\xff\xff")
    for message in chain([first[len(_SIGNATURE) :]], messages):
        if len(message) > len(b"\xff\xff"):
            yield message
