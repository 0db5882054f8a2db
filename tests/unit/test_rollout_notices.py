"""Who is told of a rollout, and what the letter says: every piece of news once, by whom and why, and never a dead link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rollout_history import RUN, History, cleared_later, drifted, fingerprint, green, verify_failed

from comporta.gates.policy import GatesFile, load_policy
from comporta.ledger import Event, EventType
from comporta.notices.letters import Pages
from comporta.notices.matrix import told
from comporta.notices.model import Letter, Notice
from comporta.notices.rollouts import TOLD_OF, about_rollout, occasion
from comporta.settings import project_root

FILE: GatesFile = load_policy(project_root() / "config" / "gates.yaml")
PAGES = Pages("http://127.0.0.1:8080")


def news(history: History) -> list[tuple[Notice, Event, list[Event]]]:
    """Every event that is news, in order, with what came before it in its stream."""
    found = []
    for nth, event in enumerate(history.events):
        before = [each for each in history.events[:nth] if each.stream == event.stream]
        if (notice := occasion(event, before)) is not None:
            found.append((notice, event, before))
    return found


def letters(history: History) -> list[Letter]:
    return [about_rollout(notice, event, before, PAGES) for notice, event, before in news(history)]


def subjects(history: History) -> list[str]:
    return [letter.subject.removeprefix("[Comporta] ") for letter in letters(history)]


def test_a_green_rollout_is_told_once_when_it_is_finished() -> None:
    history = green()
    history.finish("pass", dict.fromkeys(("OPT1", "OPT2"), "in place"))
    assert subjects(history) == ["Rollout of catalogue-2029 finished, pass: OPT1, OPT2 in place"]


def test_the_finished_rollout_leads_to_its_report_and_its_run() -> None:
    history = green()
    history.finish("stop", {"OPT1": "in place"}, ["OPT2 was not applied"])
    (letter,) = letters(history)
    assert "http://127.0.0.1:8080/comporta/reports/2026-11-24/rollout-x/rollout.html" in letter.plain
    assert "http://127.0.0.1:8080/dags/rollout/runs/manual__2026-11-24T10%3A00%3A00%2B00%3A00" in letter.html
    assert "OPT2 was not applied" in letter.plain


def test_a_report_that_says_the_same_again_is_not_told_again() -> None:
    history = green()
    for _ in range(2):
        history.finish("pass", {"OPT1": "in place"})
    assert len(news(history)) == 1


def test_three_failed_verifies_and_their_rollback_are_two_letters_about_the_rollout_and_one_about_the_breaker() -> None:
    assert subjects(verify_failed()) == [
        "Rollout stopped at OPT3: verify failed 3 times",
        "Breaker errors opened: catalogue-2029",
        "OPT3 was rolled back: the catalogue is as it must be",
    ]


def test_a_rollback_by_itself_says_why() -> None:
    assert "OPT3 was rolled back, by itself: verify failed 3 times." in letters(verify_failed())[-1].plain


def test_a_cleared_change_and_what_stood_on_it_are_one_letter_with_who_and_why() -> None:
    (letter,) = letters(cleared_later())
    assert letter.subject == "[Comporta] OPT1 was rolled back with OPT4, OPT2: the catalogue is as it must be"
    assert "because dba cleared its task: the map is slower since" in letter.plain
    assert [line for line in letter.plain.splitlines() if line.startswith("  - ")] == [
        "  - OPT4: 2.5 s, as it must be (OPT4 · restore)",
        "  - OPT2: 2.5 s, as it must be (OPT2 · restore)",
        "  - OPT1: 21.0 s, as it must be (OPT1 · restore)",
    ]


def test_a_second_rollback_of_the_same_change_does_not_count_what_went_with_the_first() -> None:
    history = cleared_later()
    history.change("OPT1")
    history.back("OPT1", why="asked", because="po: again", by=None)
    assert subjects(history)[-1] == "OPT1 was rolled back: the catalogue is as it must be"
    assert "because it was asked for: po: again" in letters(history)[-1].plain


@pytest.mark.parametrize(
    ("restored", "said"),
    [(False, "THE CATALOGUE IS NOT AS IT MUST BE"), (None, "nothing says whether the catalogue is as it was")],
    ids=["differs", "not compared"],
)
def test_a_catalogue_that_is_not_known_to_be_as_it_must_be_is_said_in_the_subject(
    restored: bool | None, said: str
) -> None:
    history = History()
    differences = ["grant SELECT on t to reader: expected present, found absent"] if restored is False else []
    history.back("OPT2", root="OPT1", restored=None)
    history.back("OPT1", restored=restored, differences=differences)
    (letter,) = letters(history)
    assert said in letter.subject
    assert all(each in letter.plain for each in differences)


def test_a_rollback_that_failed_is_told_with_what_went_before_it_and_the_way_out() -> None:
    history = cleared_later()
    history.change("OPT1")
    history.change("OPT2")
    history.back("OPT2", root="OPT1", note="slow")
    history.rollout(
        "rollback_started", "OPT1", why="cleared", because="cleared", root="OPT1", cleared_by="dba", note="slow"
    )
    history.rollout(
        "rollback_failed", "OPT1", error="deadlock", sqlstate="40P01", statement=7, transient=True, root="OPT1"
    )
    history.rollout(
        "rollback_failed", "OPT1", error="deadlock", sqlstate="40P01", statement=7, transient=True, root="OPT1"
    )
    history.rollout(
        "rollback_failed", "OPT1", error="disk full", sqlstate="53100", statement=7, transient=False, root="OPT1"
    )
    first, last = letters(history)[-2:]
    assert last.subject == "[Comporta] ROLLBACK OF OPT1 FAILED: it is half there"
    assert "It is tried again by itself." in first.plain
    assert "comporta rollback OPT1" in last.plain
    assert "  - OPT2" in last.plain


def test_drift_is_told_with_its_differences_and_what_explains_itself_with_its_explanation() -> None:
    found, drift, refused, at = letters(drifted())
    assert found.subject == "[Comporta] OPT3 found absent: catalogue-2029"
    assert "its rollback script left its mark at 10:55" in found.plain
    assert drift.subject == "[Comporta] Drift on the target, 1 difference: catalogue-2029"
    assert "index geometrias_name" in drift.plain
    assert "catalogue.geometrias: 1 difference from the proven one (prove again, or put it back)" in refused.plain
    assert at.subject == "[Comporta] Rollout refused at OPT1: catalogue-2029"
    assert "the target is not the one of the proofs" in at.plain


def test_the_same_drift_is_told_once_a_run() -> None:
    history = History()
    for run in (RUN, RUN, "rollout/later"):
        history.run = run
        history.rollout("rollout_drifted", "drift", differences=["x"], fingerprint=fingerprint("e"))
    assert len(news(history)) == 2


def test_what_is_tried_again_by_itself_is_no_news() -> None:
    history = History()
    history.apply("OPT1", begun_only=True)
    history.rollout("rollout_apply_failed", "OPT1", error="lock timeout", sqlstate="55P03", statement=3, transient=True)
    history.rollout("rollout_verify_failed", "OPT1", error="x", attempt=1, of=3)
    assert news(history) == []


def test_an_apply_that_failed_for_good_names_its_statement() -> None:
    history = History()
    history.rollout(
        "rollout_apply_failed", "OPT1", error="syntax error", sqlstate="42601", statement=3, transient=False
    )
    (letter,) = letters(history)
    assert letter.subject == "[Comporta] Rollout stopped at OPT1: apply failed"
    assert "42601" in letter.plain


def test_a_breaker_that_fails_its_probe_is_told_once_and_again_after_it_was_closed() -> None:
    history = History()
    for event_type in ("opened", "probing", "opened", "probing", "closed", "opened"):
        history.health(f"breaker_{event_type}", "disk", reason="full", last=0.99, limit=0.95, by="x", target="t")
    assert [event.version for _, event, _ in news(history)] == [1, 6]


def test_breakers_of_two_targets_are_told_apart() -> None:
    history = History()
    for target in ("one", "two"):
        history.health("breaker_opened", "disk", reason="full", last=None, limit=0.95, target=target)
    assert len(news(history)) == 2
    assert "no data" in letters(history)[0].plain


def test_a_breaker_that_a_person_holds_names_the_person() -> None:
    history = History()
    history.health("breaker_held", "all", "dba", reason="the nightly load runs")
    (letter,) = letters(history)
    assert letter.subject == "[Comporta] All breakers are held open by dba: catalogue-2029"
    assert "the nightly load runs" in letter.plain


@pytest.mark.parametrize(
    ("history", "notice", "who"),
    [
        (verify_failed, Notice.ROLLOUT_STOPPED, {"dba", "po"}),
        (verify_failed, Notice.ROLLED_BACK, {"dba", "po"}),
        (verify_failed, Notice.BREAKER_OPENED, {"dba", "po"}),
        (drifted, Notice.DRIFTED, {"dba", "po", "security"}),
    ],
    ids=["stopped", "rolled back", "breaker", "drift"],
)
def test_the_shipped_matrix_tells_those_who_are_needed(
    history: Callable[[], History], notice: Notice, who: set[str]
) -> None:
    event, before = next((event, before) for kind, event, before in news(history()) if kind == notice)
    assert set(told(event, None, FILE, before)) == who


@pytest.mark.parametrize("event_type", ["rollout_finished", "rollback_failed"])
def test_the_shipped_matrix_tells_everyone_of_the_end_and_of_a_rollback_that_failed(event_type: str) -> None:
    event = History().rollout(event_type, "OPT1")
    assert set(told(event, None, FILE)) == set(FILE.people)


def test_nobody_is_told_where_the_matrix_says_nothing() -> None:
    event = History().rollout("rollout_finished", "outcome", verdict="pass")
    assert told(event, None, FILE.model_copy(update={"escalation": ()})) == {}


def test_what_a_script_says_is_no_html_of_ours() -> None:
    history = History()
    history.rollout("rollout_apply_failed", "OPT1", error="<script>alert(1)</script>", transient=False)
    (letter,) = letters(history)
    assert "<script>" not in letter.html
    assert "<script>alert(1)</script>" in letter.plain


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 3), st.text(max_size=6), st.lists(st.text(max_size=4), max_size=2),
    st.dictionaries(st.sampled_from(["digest", "n", "OPT1", "severity"]), st.text(max_size=4), max_size=2),
)  # fmt: skip
KEYS = (
    "run", "target", "verdict", "findings", "reasons", "step", "error", "sqlstate", "statement", "transient", "attempt", "of",
    "why", "because", "root", "cleared_by", "note", "seconds", "restored", "differences", "proof", "fingerprint", "found",
    "explains", "changes", "report", "digest", "reason", "window", "last", "limit", "by",
)  # fmt: skip
TOLD = st.tuples(
    st.sampled_from([*sorted(TOLD_OF), EventType.ROLLBACK_STARTED, EventType.BREAKER_CLOSED]),
    st.sampled_from(["OPT1", "OPT2", None]),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5),
)


@given(st.lists(TOLD, max_size=6))
def test_a_letter_can_be_written_of_any_event_whatever_its_payload_lacks(
    story: list[tuple[EventType, str | None, dict[str, Any]]],
) -> None:
    """A ledger is read for years: one event that cannot be told must not hold up all that come after it."""
    history = History()
    for event_type, phase, payload in story:
        history.add("rollout/r", event_type, phase, **payload)
    for letter in letters(history):
        assert "\n" not in letter.subject
        assert letter.plain
        assert letter.html
