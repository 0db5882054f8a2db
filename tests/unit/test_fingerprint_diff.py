"""Comparing two fingerprints: pure functions over facts, no server."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comporta.proof.fingerprint import (
    SEQUENCE_POSITIONS,
    SEQUENCE_PROGRESS,
    Difference,
    Fingerprint,
    FingerprintError,
    diff,
)

words = st.text(alphabet="abc_. |é\n", min_size=1, max_size=6)
facts = st.dictionaries(st.tuples(words, words), st.dictionaries(words, words, min_size=1, max_size=3), max_size=4)

TABLE = ("table", "catalogue.geometrias")
SEQUENCE = ("sequence", "catalogue.numbers")


def sequence(position: str, increment: str = "1") -> Fingerprint:
    return Fingerprint({SEQUENCE: {"increment": increment, "next value": position}})


def test_a_lost_grant_reads_as_a_sentence() -> None:
    """The sentence names privilege, object and role."""
    lost = Difference("table", "catalogue.geometrias", "grant SELECT to gis_reader", "present", None)
    assert str(lost) == "grant SELECT on table catalogue.geometrias to gis_reader: expected present, found absent"


def test_a_long_value_is_cut_to_where_it_differs() -> None:
    """Two function bodies that differ in one word far inside show that word."""
    body = "select 1;\n" * 100
    changed = Difference("function", "f()", "source", body + "return old", body + "return new")
    assert str(changed).endswith("return new")
    assert "return old" in str(changed)
    assert len(str(changed)) < 500


def test_an_object_that_disappeared_is_one_difference() -> None:
    """Not one for each of its properties."""
    before = Fingerprint(
        {TABLE: {"owner": "gis_owner", "persistence": "logged", "grant SELECT to gis_reader": "present"}}
    )
    assert [str(each) for each in diff(before, Fingerprint({}))] == [
        "table catalogue.geometrias: expected present, found absent"
    ]


def test_what_is_only_said_about_an_object_is_reported_by_property() -> None:
    """A grant or comment on an object whose own facts are left out (an extension's) is no new object."""
    after = Fingerprint({("function", "public.f()"): {"grant EXECUTE to public": "revoked", "comment": "x"}})
    assert [each.property for each in diff(Fingerprint({}), after)] == ["comment", "grant EXECUTE to public"]


def test_sequence_positions_can_be_left_out() -> None:
    """Under traffic a sequence moves; other properties of it still count."""
    before, after = sequence("10"), sequence("99", increment="2")
    assert [each.property for each in diff(before, after, ignore=[SEQUENCE_POSITIONS])] == ["increment"]


@pytest.mark.parametrize(
    ("increment", "before", "after", "reported"),
    [
        ("1", "10", "99", False),
        ("1", "10", "9", True),
        ("-1", "10", "9", False),
        ("-1", "10", "11", True),
        ("1", "10", "not readable", True),
    ],
    ids=["moved on", "went back", "moved on downwards", "went back upwards", "cannot be compared"],
)
def test_sequence_progress_leaves_out_only_what_moved_on(
    increment: str, before: str, after: str, reported: bool
) -> None:
    """A sequence that went back would give out numbers twice: that is always a difference."""
    found = diff(sequence(before, increment), sequence(after, increment), ignore=[SEQUENCE_PROGRESS])
    assert bool(found) == reported


def test_an_unknown_group_is_an_error_that_lists_the_groups() -> None:
    """A misspelt group must not silently compare everything, or nothing."""
    with pytest.raises(FingerprintError, match="sequence positions"):
        diff(Fingerprint({}), Fingerprint({}), ignore=["sequences"])


def test_a_record_that_was_altered_is_refused() -> None:
    """The digest in the record must be that of its facts."""
    record = Fingerprint({TABLE: {"owner": "gis_owner"}}).as_json()
    record["facts"][0][3] = "postgres"
    with pytest.raises(FingerprintError, match="altered"):
        Fingerprint.from_json(record)


def test_a_record_of_another_format_is_refused() -> None:
    """Facts of another version are not comparable, and the error says which was found."""
    with pytest.raises(FingerprintError, match="found 0"):
        Fingerprint.from_json({"format": 0, "facts": [], "digest": ""})


@given(facts)
def test_json_gives_back_the_same_fingerprint(each: dict[tuple[str, str], dict[str, str]]) -> None:
    """Whatever the names and values are."""
    fingerprint = Fingerprint(each)
    assert Fingerprint.from_json(json.dumps(fingerprint.as_json())) == fingerprint


@given(facts, facts)
def test_equal_digests_and_no_difference_mean_the_same(
    one: dict[tuple[str, str], dict[str, str]], other: dict[tuple[str, str], dict[str, str]]
) -> None:
    """The digest differs exactly when there is a difference to name, in both directions alike."""
    a, b = Fingerprint(one), Fingerprint(other)
    assert (a.digest == b.digest) == (diff(a, b) == [])
    assert [(d.object_kind, d.object_name, d.property, d.found, d.expected) for d in diff(a, b)] == [
        (d.object_kind, d.object_name, d.property, d.expected, d.found) for d in diff(b, a)
    ]
