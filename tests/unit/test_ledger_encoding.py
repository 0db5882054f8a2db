"""The encoding under the ledger's digests: two events share it only when they are the same event."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from comporta.ledger.verification import Row, encode

ids = st.binary(min_size=8, max_size=8)
versions = st.binary(min_size=4, max_size=4)
short = st.binary(max_size=4)
rows = st.tuples(
    ids, short, versions, short, short, st.none() | short, st.none() | short, short, short, ids, st.none() | short
)


def decode(encoding: bytes) -> Row:
    """Read an encoding back without knowing how it was made: count, then type, length and bytes of each field."""
    (count,) = struct.unpack_from(">I", encoding)
    fields: list[bytes | None] = []
    at = 4
    for _ in range(count):
        _oid, length = struct.unpack_from(">Ii", encoding, at)
        at += 8
        fields.append(None if length < 0 else encoding[at : at + length])
        at += max(length, 0)
    assert at == len(encoding)
    return tuple(fields)  # type: ignore[return-value]


@given(rows)
def test_an_encoding_can_be_read_back_so_no_two_events_share_one(row: Row) -> None:
    assert decode(encode(row)) == row


@given(rows, rows)
def test_different_fields_give_different_encodings(one: Row, other: Row) -> None:
    assert (encode(one) == encode(other)) == (one == other)


@given(st.binary(min_size=1, max_size=6), st.binary(min_size=1, max_size=6))
def test_moving_characters_to_the_next_field_changes_the_encoding(left: bytes, right: bytes) -> None:
    id_, version = bytes(8), bytes(4)
    before: Row = (id_, b"s", version, left, right, None, None, b"{}", b"a", id_, None)
    after: Row = (id_, b"s", version, left + right[:1], right[1:], None, None, b"{}", b"a", id_, None)
    assert encode(before) != encode(after)


def test_an_empty_text_is_not_a_null() -> None:
    id_, version = bytes(8), bytes(4)
    empty: Row = (id_, b"s", version, b"f", b"t", b"", None, b"{}", b"a", id_, None)
    null: Row = (id_, b"s", version, b"f", b"t", None, b"", b"{}", b"a", id_, None)
    assert encode(empty) != encode(null)
