"""Evidence is collected once for all who look at the same time, and a server that hangs holds nobody up for long."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from comporta.errors import UnreachableServer
from comporta.orchestration.evidence_watch import EvidenceWatch, NoData


def test_those_who_look_at_once_share_one_look() -> None:
    """Twenty open pages must not ask the target twenty times."""
    calls: list[str] = []
    go_on = threading.Event()

    def collect(key: str) -> str:
        calls.append(key)
        go_on.wait(5)
        return f"{key} as it is"

    watch = EvidenceWatch(collect)
    with ThreadPoolExecutor(5) as people:
        looks = [people.submit(watch.look, "target") for _ in range(5)]
        go_on.set()
        assert {look.result() for look in looks} == {"target as it is"}
    assert calls == ["target"]


def test_evidence_is_collected_anew_after_a_few_seconds() -> None:
    """Kept for as long as said, then asked for again."""
    moment = [0.0]
    found = iter(["first", "second"])
    watch = EvidenceWatch(lambda _key: next(found), keep_s=3, clock=lambda: moment[0])
    seen = []
    for moment[0] in (0.0, 2.9, 3.0):
        seen.append(watch.look("target"))  # noqa: PERF401 - the clock moves in between
    assert seen == ["first", "first", "second"]


def test_a_server_that_hangs_is_no_data_and_is_not_asked_a_second_time() -> None:
    """The look goes on in its own thread; the request does not."""
    go_on = threading.Event()
    calls: list[str] = []

    def collect(key: str) -> str:
        calls.append(key)
        go_on.wait(5)
        return "late"

    watch = EvidenceWatch(collect, keep_s=0, patience_s=0.05)
    assert watch.look("target") == NoData("collecting it takes longer than 0.05 seconds")
    assert isinstance(watch.look("target"), NoData)
    go_on.set()
    assert calls == ["target"]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UnreachableServer("the target does not answer", remedy="Start it."), "the target does not answer"),
        (RuntimeError("password=secret"), "collecting it failed; the API server's log says how"),
    ],
    ids=["ours", "any other"],
)
def test_an_error_is_no_data_and_only_ours_are_quoted(error: Exception, why: str) -> None:
    """What another error says may hold anything."""

    def collect(_key: str) -> str:
        raise error

    assert EvidenceWatch(collect).look("target") == NoData(why)
