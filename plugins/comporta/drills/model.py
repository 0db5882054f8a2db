"""What a drill is, what it found, and how that is judged against the recovery objectives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

import psycopg
from pydantic import TypeAdapter

from comporta.drills.objectives import DrillPlan, Objective
from comporta.errors import ComportaError, ConfigurationError, UnreachableServer
from comporta.settings import Settings

Say = Callable[[str], None]


class Outcome(StrEnum):
    """``not installed`` covers whatever keeps a drill from being tried: it says nothing about recovery."""

    RECOVERED = "recovered"
    FAILED = "failed"
    NOT_INSTALLED = "not installed"


class Verdict(StrEnum):
    """The outcome held against the objectives; ``no data`` is not good news."""

    MET = "met"
    MISSED = "missed"
    NO_DATA = "no data"


class CannotDrill(ComportaError):
    """Something that the drill needs is missing here; nothing was crashed, killed or promoted."""


class NotRecovered(ComportaError):
    """The component did not come back, or not with what it had; the drill ends here and says what it saw."""


@dataclass(frozen=True)
class DrillResult:
    """``recovery_seconds`` is from the failure to normal work; ``lost`` counts acknowledged writes, events or tasks.

    Both are None when they were not measured. ``steps`` are (what was done, seconds) in order.
    """

    name: str
    outcome: Outcome
    recovery_seconds: float | None = None
    lost: int | None = None
    steps: tuple[tuple[str, float], ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote."""
        result: Self = TypeAdapter(cls).validate_python(dict(record))
        return result

    def judge(self, objective: Objective) -> tuple[Verdict, str]:
        """The verdict, and in words what it rests on."""
        if self.outcome == Outcome.NOT_INSTALLED:
            return Verdict.NO_DATA, self.reason
        if self.outcome == Outcome.FAILED:
            return Verdict.MISSED, self.reason
        if self.recovery_seconds is None or self.lost is None:
            return Verdict.NO_DATA, "it recovered, but its time or its losses were not measured"
        too_much = []
        if self.recovery_seconds > objective.recovery_s:
            too_much.append(f"back after {self.recovery_seconds:.1f} s, objective {objective.recovery_s:g} s")
        if self.lost > objective.lost:
            too_much.append(f"{self.lost} lost, objective {objective.lost}")
        if too_much:
            return Verdict.MISSED, "; ".join(too_much)
        return Verdict.MET, f"back after {self.recovery_seconds:.1f} s, {self.lost} lost"


@dataclass(frozen=True)
class Context:
    """What a drill runs in; ``step`` tells what is being done, and keeps how long it took."""

    settings: Settings
    plan: DrillPlan
    say: Say = lambda _: None
    clock: Callable[[], float] = time.monotonic
    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce the block and keep its duration, also when it fails."""
        self.say(f"  {text}")
        started = self.clock()
        try:
            yield
        finally:
            self.steps.append((text, round(self.clock() - started, 3)))

    def recovered(self, name: str, *, seconds: float, lost: int, **evidence: Any) -> DrillResult:
        """The result of a drill that came to its end."""
        return DrillResult(name, Outcome.RECOVERED, round(seconds, 3), lost, tuple(self.steps), evidence)


@dataclass(frozen=True)
class Drill:
    """One drill: ``summary`` is what it proves, ``touches`` what will feel it, ``lost_are`` what ``lost`` counts.

    ``shipped``: its component is part of this version; the others are owed by nobody yet.
    """

    name: str
    component: str
    summary: str
    touches: str
    lost_are: str
    run: Callable[[Context], DrillResult]
    shipped: bool = True

    def perform(self, context: Context) -> DrillResult:
        """Run it; what is missing beforehand is "not installed", what goes wrong on the way is "failed"."""
        try:
            return self.run(context)
        except CannotDrill as error:
            return self._ended(Outcome.NOT_INSTALLED, context, error.message, error.remedy)
        except ComportaError as error:
            beforehand = not context.steps and isinstance(error, ConfigurationError | UnreachableServer)
            outcome = Outcome.NOT_INSTALLED if beforehand else Outcome.FAILED
            return self._ended(outcome, context, error.message, error.remedy)
        except psycopg.Error as error:
            return self._ended(Outcome.FAILED, context, " ".join(str(error).split()), "")

    def _ended(self, outcome: Outcome, context: Context, reason: str, remedy: str) -> DrillResult:
        return DrillResult(self.name, outcome, steps=tuple(context.steps), reason=reason, remedy=remedy)
