"""What a superuser can do to the ledger, and what then gives it away: block, event or anchor are named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from comporta.ledger import Ledger, NewEvent, Verification, migrate
from comporta.ledger.anchor import Anchors, Places, anchor, make_key, read

COLUMNS = 'feature, event_type, workflow, phase, payload, actor, "timestamp"'

# The chain computed anew over what the events are now, block by block, as somebody would who read our source.
RECOMPUTE = """
do $$
declare b record; before bytea := decode(repeat('00', 32), 'hex'); digests bytea;
begin
    for b in select * from comporta.block order by n loop
        select string_agg(comporta.leaf(e), ''::bytea order by id) into digests
          from comporta.event e where id between b.first_id and b.last_id;
        update comporta.block set leaves = digests, prev_hash = before,
               hash = comporta.block_hash(b.n, b.first_id, b.last_id, digests, before) where n = b.n;
        select hash into before from comporta.block where n = b.n;
    end loop;
end $$
"""


@dataclass(frozen=True)
class Site:
    """A ledger of six blocks with events 1..18 (block n holds 3n-2..3n), anchored behind blocks 2, 4 and 6."""

    owner: psycopg.Connection
    ledger: Ledger
    places: Places

    def check(self) -> tuple[Verification, Anchors]:
        signed = read(self.places)
        return self.ledger.verify(anchors=signed.held), signed


@pytest.fixture
def site(control: str, tmp_path: Path) -> Iterator[Site]:
    places = Places(tmp_path / "ledger.jsonl", tmp_path / "key.pem", tmp_path / "copy" / "ledger.jsonl")
    make_key(places)
    with psycopg.connect(control, autocommit=True) as owner:
        migrate(owner)
        with Ledger(control) as ledger:
            for block in range(6):
                append(ledger, block)
                if block % 2:
                    anchor(ledger, places)
            for table in ("event", "block"):
                owner.execute(f"alter table comporta.{table} disable trigger all".encode())
            owner.execute("alter table comporta.event drop constraint event_stream_version")
            yield Site(owner, ledger, places)


def append(ledger: Ledger, block: int, *, actor: str = "task") -> None:
    events = [
        NewEvent(
            event_type="change_measured",
            feature="release",
            actor=actor,
            workflow="stage2",
            phase="OPT1",
            payload={"number": 3 * block + i},
        )
        for i in range(3)
    ]
    ledger.append(f"s/{block % 2}", events)


def refill(site: Site) -> None:
    """Take the trigger's place: what comes after is appended by the ledger's own function."""
    for block in (4, 5):
        append(site.ledger, block, actor="somebody")


@dataclass(frozen=True)
class Case:
    """Statements of a superuser, and what must be named."""

    statements: tuple[str, ...]
    block: int | None = None
    event: int | None = None
    anchor: int | None = None
    then: Callable[[Site], None] | None = None


TAMPERING = {
    "payload edited": Case(("update comporta.event set payload = payload || '{\"number\": 99}' where id = 8",), 3, 8),
    "actor edited": Case(("update comporta.event set actor = 'cfo' where id = 8",), 3, 8),
    "time moved by 1 us": Case(
        ('update comporta.event set "timestamp" = "timestamp" + interval \'1 microsecond\' where id = 8',), 3, 8
    ),
    "value made null": Case(("update comporta.event set phase = null where id = 8",), 3, 8),
    "characters shifted between fields": Case(
        ("update comporta.event set workflow = 'stage2O', phase = 'PT1' where id = 8",), 3, 8
    ),
    "event deleted": Case(("delete from comporta.event where id = 8",), 3, 8),
    "event deleted and the rest renumbered": Case(
        (
            "delete from comporta.event where id = 8",
            "update comporta.event set id = -id where id > 8",
            "update comporta.event set id = -id - 1 where id < 0",
        ),
        3,
        8,
    ),
    "event inserted in the middle": Case(
        (
            "update comporta.event set id = -id where id > 8",
            "update comporta.event set id = -id + 1 where id < 0",
            f"insert into comporta.event (id, stream, version, {COLUMNS}) select 9, 'x', 1, {COLUMNS} "
            "from comporta.event where id = 8",
        ),
        3,
        9,
    ),
    "two events swapped": Case(
        (
            "update comporta.event set id = -id where id in (7, 8)",
            "update comporta.event set id = 15 + id where id < 0",
        ),
        3,
        7,
    ),
    "two blocks swapped": Case(
        ("update comporta.block set n = -n where n in (3, 4)", "update comporta.block set n = 7 + n where n < 0"), 3
    ),
    "last event cut": Case(("delete from comporta.event where id = 18",), 6, 18),
    "all events truncated": Case(("truncate comporta.event",), 1, 1),
    "event forged without a block": Case(
        (
            f"insert into comporta.event (id, stream, version, {COLUMNS}) select 19, 's/1', 10, {COLUMNS} "
            "from comporta.event where id = 18",
        ),
        None,
        19,
    ),
    "whole blocks cut": Case(
        ("delete from comporta.event where id > 12", "delete from comporta.block where n > 4"), 5, 13, 3
    ),
    "both tables truncated": Case(("truncate comporta.event, comporta.block",), 1, 1, 1),
    "an event edited and all of the chain computed anew": Case(
        ("update comporta.event set actor = 'cfo' where id = 8", RECOMPUTE), 4, None, 2
    ),
    "the end cut and filled with another history": Case(
        ("delete from comporta.event where id > 12", "delete from comporta.block where n > 4"), 6, None, 3, refill
    ),
}


def test_the_ledger_and_its_anchors_hold_before_anybody_touched_them(site: Site) -> None:
    found, signed = site.check()
    assert (found.ok, found.anchors, signed.faults) == (True, 3, ())


@pytest.mark.parametrize("case", TAMPERING.values(), ids=TAMPERING.keys())
def test_each_way_of_tampering_is_found_and_named(site: Site, case: Case) -> None:
    for statement in case.statements:
        site.owner.execute(statement.encode())
    if case.then is not None:
        case.then(site)
    found, _ = site.check()
    assert not found.ok
    assert (found.first_bad_block, found.first_bad_event, found.bad_anchor) == (case.block, case.event, case.anchor)
    for what, number in (("block", case.block), ("event", case.event), ("anchor", case.anchor)):
        if number is not None:
            assert f"{what} {number}" in found.what


@pytest.mark.parametrize("name", ["an event edited and all of the chain computed anew", "whole blocks cut",
                                  "both tables truncated", "the end cut and filled with another history"])  # fmt: skip
def test_these_four_the_chain_alone_does_not_show(site: Site, name: str) -> None:
    """Why there are anchors: without them all of this verifies."""
    case = TAMPERING[name]
    for statement in case.statements:
        site.owner.execute(statement.encode())
    if case.then is not None:
        case.then(site)
    assert site.ledger.verify().ok


# --- the anchors themselves ------------------------------------------------------------------------------------------


def lose_file(places: Places) -> None:
    places.file.unlink()


def lose_copy(places: Places) -> None:
    assert places.copy is not None
    places.copy.unlink()


def cut_file(places: Places) -> None:
    places.file.write_bytes(b"".join(places.file.read_bytes().splitlines(keepends=True)[:-1]))


def both(places: Places, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    lines = edit(places.file.read_bytes().splitlines(keepends=True))
    for path in (places.file, places.copy):
        assert path is not None
        path.write_bytes(b"".join(lines))


def edit_line(places: Places) -> None:
    both(places, lambda lines: [lines[0], lines[1].replace(b'"n":4', b'"n":3'), lines[2]])


def drop_line(places: Places) -> None:
    both(places, lambda lines: [lines[0], lines[2]])


def drop_first_line(places: Places) -> None:
    both(places, lambda lines: lines[1:])


def swap_lines(places: Places) -> None:
    both(places, lambda lines: [lines[1], lines[0], lines[2]])


def spoil_line(places: Places) -> None:
    both(places, lambda lines: [lines[0], b"?\n", lines[2]])


@pytest.mark.parametrize(
    ("meddle", "message"),
    [
        (lose_file, "ledger.jsonl are gone"),
        (lose_copy, "is gone"),
        (cut_file, "ends after anchor 2; its copy has 3"),
        (edit_line, "anchor 2 .*its signature is not over what it says"),
        (drop_line, "anchor 2 .*a line before it was removed"),
        (drop_first_line, "anchor 1 .*a line before it was removed"),
        (swap_lines, "anchor 1 .*a line before it was removed"),
        (spoil_line, "anchor 2 .*cannot be read"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_meddling_with_the_anchors_is_found_and_named(
    site: Site, meddle: Callable[[Places], None], message: str
) -> None:
    meddle(site.places)
    signed = read(site.places)
    assert re.search(message, signed.faults[0])


def test_an_anchor_signed_with_a_foreign_key_is_not_believed(site: Site, tmp_path: Path) -> None:
    other = Places(tmp_path / "other" / "ledger.jsonl", tmp_path / "other.pem")
    make_key(other)
    anchor(site.ledger, other)
    forged = other.file.read_bytes()
    places = replace(site.places, copy=None)
    places.file.write_bytes(forged)
    (fault,) = read(places).faults
    assert fault.startswith("anchor 1 ")
    assert f"signed with the key {json.loads(forged)['key']}, which is not one of those trusted" in fault
