"""Events and their fold, without a database."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comporta.ledger import Event, EventType, LedgerError, NewEvent, StreamState, UnknownEventType, fold, project

START = datetime(2026, 1, 1, tzinfo=UTC)


def log(choices: list[tuple[str, EventType]]) -> list[Event]:
    """A ledger with one event for each (stream, type)."""
    versions: dict[str, int] = {}
    events = []
    for number, (stream, event_type) in enumerate(choices, start=1):
        versions[stream] = versions.get(stream, 0) + 1
        events.append(
            Event(
                id=number,
                stream=stream,
                version=versions[stream],
                feature="release",
                event_type=event_type,
                workflow="stage2",
                phase=None,
                payload={"number": number},
                actor="task",
                timestamp=START + timedelta(seconds=number),
                idempotency_key=None,
            )
        )
    return events


logs = st.lists(st.tuples(st.sampled_from(["dry_run/1", "dry_run/2", "dry_run/3"]), st.sampled_from(EventType))).map(
    log
)


@given(logs, st.data())
def test_folding_any_prefix_succeeds_and_going_on_from_it_gives_the_whole(
    events: list[Event], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(events)))
    none: dict[str, StreamState] = {}
    prefix = fold(events[:cut], none, project)
    assert fold(events[cut:], prefix, project) == fold(events, none, project)


@given(logs)
def test_the_state_of_a_stream_is_its_last_event(events: list[Event]) -> None:
    states = fold(events, {}, project)
    assert {name: (state.id, state.version) for name, state in states.items()} == {
        event.stream: (event.id, event.version) for event in events
    }


def test_an_unknown_event_type_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UnknownEventType, match=r'"change_aplied" is not in the catalogue; known are: .*change_applied'):
        NewEvent(event_type="change_aplied", feature="release", actor="task")


def test_an_event_without_an_actor_is_refused() -> None:
    with pytest.raises(LedgerError, match="has no actor"):
        NewEvent(event_type="clone_made", feature="release", actor="")


def test_an_event_cannot_be_changed() -> None:
    event = NewEvent(event_type="clone_made", feature="release", actor="task")
    with pytest.raises(FrozenInstanceError):
        event.actor = "another"  # type: ignore[misc]


@pytest.mark.parametrize("event_type", EventType, ids=str)
def test_a_type_is_written_as_its_plain_name(event_type: EventType) -> None:
    event = NewEvent(event_type=str(event_type), feature="release", actor="task")
    assert event.event_type is event_type
    assert f"{event.event_type}" == event_type.value
