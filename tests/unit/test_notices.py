"""When mail is tried again, and what it says: pure functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comporta.ledger import Event
from comporta.notices.backoff import Patience, pause
from comporta.notices.letters import Pages, about_minutes
from comporta.notices.outbox import message_id

PATIENCE = Patience()
AT = datetime(2026, 11, 24, 10, tzinfo=UTC)


def event(number: int = 1, **payload: object) -> Event:
    return Event(
        id=number,
        stream="daily_sync/run1",
        version=1,
        feature="catalogue",
        event_type="minutes_written",
        workflow="daily_sync",
        phase=None,
        payload=payload,
        actor="daily_sync",
        timestamp=AT,
        idempotency_key=None,
    )


@given(tries=st.integers(1, 10_000), key=st.text(max_size=40))
def test_a_pause_is_between_half_and_all_of_its_step_and_never_beyond_the_longest(tries: int, key: str) -> None:
    step = min(PATIENCE.longest_s, PATIENCE.first_s * 2.0 ** min(tries - 1, 60))
    assert step / 2 <= pause(tries, key, PATIENCE).total_seconds() <= step <= PATIENCE.longest_s


@given(tries=st.integers(1, 50), key=st.text(max_size=40))
def test_a_pause_is_the_same_whoever_computes_it(tries: int, key: str) -> None:
    assert pause(tries, key) == pause(tries, key)


def test_mails_that_failed_together_are_tried_again_apart() -> None:
    assert len({pause(1, f"mail {number}") for number in range(100)}) > 90


@pytest.mark.parametrize(
    ("tries", "hours", "away", "ended"),
    [(7, 48, False, False), (8, 0.5, False, False), (8, 1, False, True), (300, 47, True, False), (300, 48, True, True)],
    ids=["too few tries", "too young", "both", "server away", "server away for days"],
)
def test_a_mail_is_given_up_after_its_tries_and_its_hours_and_later_while_the_server_is_away(
    tries: int, hours: float, away: bool, ended: bool
) -> None:
    assert PATIENCE.ended(tries, timedelta(hours=hours), away=away) is ended


def test_a_message_id_is_that_of_event_and_person() -> None:
    assert message_id(event(), "po") == message_id(event(), "po")
    assert len({message_id(event(number), who) for number in (1, 2) for who in ("po", "cfo")}) == 4


def test_a_letter_on_minutes_is_written_also_where_they_are_nearly_empty() -> None:
    """A ledger is read for years: a payload may lack what today's minutes have."""
    letter = about_minutes(event(), Pages())
    assert "0 blockers" in letter.subject
    assert letter.plain
    assert letter.html


def test_what_a_reader_writes_is_no_html_of_ours() -> None:
    letter = about_minutes(event(minutes={"sentence": "<script>"}), Pages())
    assert "&lt;script&gt;" in letter.html
    assert "<script>" in letter.plain
