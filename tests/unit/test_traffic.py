"""The record of the traffic and the search for lost writes, without a server."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comporta.demo.ewkb import multipolygon
from comporta.demo.losses import compare, replay
from comporta.demo.outlines import outlines
from comporta.demo.record import UNIDENTIFIED, AcknowledgedWrite, Mark, Operation, TrafficRecord, merge
from comporta.demo.traffic import READS, WRITES, Traffic


def read(
    at: float, seconds: float, due: float | None = None, kind: str = "read_id", error: str | None = None
) -> Operation:
    return Operation(at=at, due=at if due is None else due, seconds=seconds, kind=kind, is_write=False, error=error)


def write(at: float, action: str = "update", number: int = 7, **values: str) -> AcknowledgedWrite:
    return AcknowledgedWrite(at=at, id=number, table="geometrias", action=action, values=values)


def annotation(at: float, number: int, geometria: int, body: str) -> AcknowledgedWrite:
    return AcknowledgedWrite(at, number, "annotations", "insert", {"geometria_id": str(geometria), "body": body})


def record(
    *operations: Operation,
    acknowledged: tuple[AcknowledgedWrite, ...] = (),
    unknown: tuple[AcknowledgedWrite, ...] = (),
) -> TrafficRecord:
    return TrafficRecord(0.0, 10.0, 50, 50, operations, acknowledged, unknown)


def test_a_percentile_is_the_latency_that_so_many_operations_did_not_exceed() -> None:
    measured = record(*(read(at=n, seconds=n / 100) for n in range(1, 101)))
    assert measured.percentile(50) == 0.50
    assert measured.percentile(99) == 0.99
    assert measured.percentile(100) == measured.longest() == 1.0
    assert measured.percentile(99, kind="search") == measured.longest(kind="search") == 0.0


def test_an_operation_that_waited_for_its_turn_counts_from_when_it_was_due() -> None:
    """An open loop leaves nothing out: the operation behind a stalled one was slow for its user as well."""
    measured = record(read(at=3.0, due=1.0, seconds=0.25))
    assert measured.longest() == 0.25
    assert measured.longest(from_due=True) == 2.25
    assert measured.percentile(50, from_due=True) == 2.25


def test_a_phase_holds_every_operation_that_was_under_way_in_it() -> None:
    before, across, within, after = read(0.0, 0.5), read(0.9, 0.5), read(1.5, 0.1), read(2.5, 0.1)
    measured = record(before, across, within, after)
    assert measured.select(since=1.0, until=2.0) == [across, within]
    assert measured.longest(since=1.0, until=2.0) == 0.5


def test_kinds_can_be_named_alone_or_together() -> None:
    measured = record(read(1.0, 0.1), read(2.0, 0.2, kind="search"), read(3.0, 0.3, kind="read_window"))
    assert measured.longest(kind="search") == 0.2
    assert measured.longest(kind={"read_id", "search"}) == 0.2
    assert [operation.kind for operation in measured.slowest(2)] == ["read_window", "search"]


def test_failed_operations_are_those_with_an_error() -> None:
    bad = read(2.0, 0.1, error="40001: could not serialize access")
    assert record(read(1.0, 0.1), bad).failed() == [bad]


def test_a_record_survives_its_json() -> None:
    measured = replace(
        record(read(1.0, 0.1), acknowledged=(write(1.0, name="São João"),), unknown=(write(2.0, "delete"),)),
        marks=(Mark(1.5, "apply OPT1"),),
    )
    assert TrafficRecord.from_json(measured.to_json()) == measured


ROW = {"layer": "lagos", "name": "b", "rev": "2", "geom": "0f", "data_referencia": "2020-01-01"}


@pytest.mark.parametrize(
    ("acknowledged", "unknown", "found", "lost"),
    [
        pytest.param([write(1, name="a"), write(2, name="b")], [], [ROW], [], id="the last update is there"),
        pytest.param([write(1, name="b"), write(2, name="c")], [], [ROW], [2], id="the last update is undone"),
        pytest.param([write(1, name="b"), write(2, geom="aa")], [], [ROW], [2], id="one column of two is lost"),
        pytest.param([write(1, "insert", name="b")], [], [], [1], id="an inserted row is gone"),
        pytest.param([write(1, name="b"), write(2, "delete")], [], [], [], id="a deleted row is gone"),
        pytest.param([write(1, "delete")], [], [ROW], [1], id="a deleted row is back"),
        pytest.param([write(1, name="b")], [], [ROW, ROW], [1], id="a row is there twice"),
        pytest.param([write(1, name="a")], [write(2, name="b")], [ROW], [], id="an unanswered update happened"),
        pytest.param([write(1, name="b")], [write(2, name="c")], [ROW], [], id="an unanswered update did not happen"),
        pytest.param([write(1, name="x")], [write(2, name="y")], [ROW], [1], id="neither of the two is there"),
        pytest.param([write(1, name="b")], [write(2, "delete")], [], [], id="an unanswered delete happened"),
        pytest.param([write(1, name="b")], [write(2, "delete")], [ROW], [], id="an unanswered delete did not happen"),
        pytest.param([], [write(1, name="c")], [ROW], [], id="nothing was acknowledged"),
    ],
)
def test_a_write_is_lost_when_its_effect_is_gone_and_nothing_later_explains_it(
    acknowledged: list[AcknowledgedWrite],
    unknown: list[AcknowledgedWrite],
    found: list[dict[str, str]],
    lost: list[float],
) -> None:
    expected = replay(record(acknowledged=tuple(acknowledged), unknown=tuple(unknown)))
    assert [loss.at for loss in compare(expected, {7: found}, {})] == lost


def test_a_lost_write_says_what_should_be_there_and_what_is() -> None:
    expected = replay(record(acknowledged=(write(2.5, name="c", rev="3"),)))
    (loss,) = compare(expected, {7: [ROW]}, {})
    assert (loss.id, loss.action, loss.at) == (7, "update", 2.5)
    assert (loss.expected, loss.found) == ("name = c, rev = 3", "name = b, rev = 2")


def test_an_annotation_is_lost_unless_its_geometry_was_deleted_after_it() -> None:
    note = annotation(1.0, 40, 7, "seen")
    kept = replay(record(acknowledged=(note,)))
    assert compare(kept, {}, {40: (7, "seen")}) == []
    assert [loss.table for loss in compare(kept, {}, {})] == ["annotations"]
    assert compare(replay(record(acknowledged=(note, write(2.0, "delete")))), {7: []}, {}) == []


def test_an_insert_without_an_answer_claims_nothing_of_any_row() -> None:
    unanswered = (
        write(1.0, "insert", number=UNIDENTIFIED, rev="a-1"),
        annotation(2.0, UNIDENTIFIED, 7, "traffic a-2"),
    )
    assert replay(record(unknown=unanswered)) == {}


def test_a_lost_write_reads_as_a_sentence() -> None:
    (loss,) = compare(replay(record(acknowledged=(write(2.5, name="c"),))), {}, {})
    assert str(loss) == "update of geometrias 7, sent 1970-01-01 00:00:02.500+00:00: expected a row, found no row"


def test_merged_records_read_as_one_in_order_of_time() -> None:
    early = replace(record(read(1.0, 0.1), acknowledged=(write(1.0, number=7),)), started=-1.0)
    late = replace(record(read(0.5, 0.1), acknowledged=(write(0.5, number=8),)), stopped=11.0)
    merged = merge([early, late])
    assert merged is not None
    assert [operation.at for operation in merged.operations] == [0.5, 1.0]
    assert [each.id for each in merged.acknowledged] == [8, 7]
    assert (merged.started, merged.stopped, merged.writes_per_s) == (-1.0, 11.0, 100)
    assert merge([]) is None


@given(st.lists(st.sampled_from(["insert", "update", "delete"]), min_size=1, max_size=12))
def test_a_table_that_obeyed_every_write_has_lost_none(actions: list[str]) -> None:
    table: dict[int, list[dict[str, str]]] = {}
    log = []
    for at, action in enumerate(actions):
        name = f"name {at}"
        log.append(write(float(at), action, name=name) if action != "delete" else write(float(at), action))
        table[7] = [] if action == "delete" else [{**ROW, "name": name}]
    assert compare(replay(record(acknowledged=tuple(log))), table, {}) == []


def test_the_shares_of_the_operations_add_up() -> None:
    assert sum(READS.values()) == pytest.approx(1)
    assert sum(WRITES.values()) == pytest.approx(1)


def test_stopping_traffic_that_never_started_is_an_error_and_not_an_empty_record() -> None:
    traffic = Traffic("host=127.0.0.1")
    with pytest.raises(Exception, match="never started"):
        traffic.stop()


def test_outlines_are_real_closed_rings_in_degrees() -> None:
    found = list(outlines())
    assert len(found) > 1_500
    assert {"Brasil", "Índia", "Japão"} <= {outline.name for outline in found}
    assert all(outline.points >= 24 for outline in found)
    for outline in found[:50]:
        numbers = struct.unpack(f"<{2 * outline.points}d", outline.ewkb[-16 * outline.points :])
        assert numbers[:2] == numbers[-2:]
        assert all(-180 <= x <= 180 and -90 <= y <= 90 for x, y in zip(numbers[::2], numbers[1::2], strict=True))


def test_outlines_come_in_the_same_order_every_time() -> None:
    assert list(outlines(400)) == list(outlines(400))


def test_a_multipolygon_is_written_as_postgis_writes_it() -> None:
    """Byte order, type with SRID flag, SRID, number of polygons; then byte order, type, number of rings, of points."""
    encoded = multipolygon([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
    assert encoded[:26].hex() == "0106000020e610000001000000" + "0103000000" + "01000000" + "04000000"
    assert len(encoded) == 26 + 4 * 16
