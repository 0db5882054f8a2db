"""Evidence is collected once for all who look at the same time, and a server that hangs holds nobody up for long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from comporta.errors import UnreachableServer
from comporta.gates import EvidenceItem, Gate
from comporta.gates.evidence import Evidence
from comporta.orchestration.evidence_watch import EvidenceWatch, NoData


@dataclass(frozen=True)
class Asked:
    """As much of a gate as a look needs."""

    gate: int
    name: str = "rollout"
    kind: str = "decision"
    asked_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Eye:
    """Counts the looks that were begun and the gates that were looked at; ``see`` is what a look does."""

    see: Callable[[], None] = lambda: None
    begun: int = 0
    seen: list[str] = field(default_factory=list)

    def begin(self) -> Eye:
        """A new look."""
        self.begun += 1
        return self

    def of(self, name: str, kind: Any, asked_by: Any) -> Evidence:  # noqa: ARG002 - the collector's signature
        """One gate."""
        self.seen.append(name)
        self.see()
        return Evidence((EvidenceItem("target", "Schema", f"{self.begun}"),))


def gates(*numbers: int, name: str = "rollout") -> list[Gate]:
    """Gates of one name."""
    return [cast("Gate", Asked(number, name)) for number in numbers]


def test_those_who_look_at_once_share_one_look() -> None:
    """Twenty open pages must not ask the target twenty times."""
    go_on = threading.Event()
    eye = Eye(lambda: cast("None", go_on.wait(5)))
    watch = EvidenceWatch(eye.begin)
    with ThreadPoolExecutor(5) as people:
        looks = [people.submit(watch.look, gates(1, 2)) for _ in range(5)]
        go_on.set()
        assert all(set(look.result()) == {1, 2} for look in looks)
    assert (eye.begun, len(eye.seen)) == (1, 2)


def test_evidence_is_collected_anew_after_a_few_seconds() -> None:
    """Kept for as long as said, then asked for again."""
    moment = [0.0]
    eye = Eye()
    watch = EvidenceWatch(eye.begin, keep_s=3, clock=lambda: moment[0])
    begun = []
    for moment[0] in (0.0, 2.9, 3.0):
        watch.look(gates(1))
        begun.append(eye.begun)
    assert begun == [1, 1, 2]


def test_a_server_that_hangs_is_no_data_and_is_not_asked_a_second_time() -> None:
    """The look goes on in its own thread; the request does not, however many gates its list has."""
    go_on = threading.Event()
    eye = Eye(lambda: cast("None", go_on.wait(5)))
    watch = EvidenceWatch(eye.begin, keep_s=0, patience_s=0.05)
    late = NoData("collecting it takes longer than 0.05 seconds")
    assert watch.look(gates(1, 2, 3)) == {1: late, 2: late, 3: late}
    assert watch.look(gates(1))[1] == late
    go_on.set()
    assert eye.begun == 1


def test_a_server_that_is_away_is_waited_for_once_for_all_gates_of_a_name() -> None:
    """Fifty gates would wait for fifty connection time-outs; a gate that needs another server is looked at all the same."""

    def refuse() -> None:
        if eye.seen[-1] == "rollout":
            raise UnreachableServer("the target does not answer", remedy="Start it.")

    eye = Eye(refuse)
    found = EvidenceWatch(eye.begin).look([*gates(1, 2, 3), *gates(4, name="failover")])
    assert [found[number] for number in (1, 2, 3)] == [NoData("the target does not answer")] * 3
    assert isinstance(found[4], Evidence)
    assert eye.seen == ["rollout", "failover"]


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

    def fail() -> None:
        raise error

    assert EvidenceWatch(Eye(fail).begin).look(gates(1)) == {1: NoData(why)}
