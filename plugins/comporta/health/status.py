"""How the target is: what the breakers and the last samples add up to. Three-valued; what nobody saw is never good.

The words of ``why`` change only when the facts do: a gate's votes are bound to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from comporta.health.sample import Verdict
from comporta.release.health import EVERYTHING, HealthPlan

State = Verdict
Position = Literal["closed", "open", "half-open"]


@dataclass(frozen=True)
class Hold:
    """A person's stop: ``breaker`` is a name or ``all``."""

    breaker: str
    held_by: str
    reason: str
    held_at: datetime

    def __str__(self) -> str:
        what = "all breakers are" if self.breaker == EVERYTHING else f"{self.breaker} is"
        return f"{what} held open by {self.held_by}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A breaker as the control database has it, with its window and its last sample; None where there is none."""

    breaker: str
    now: datetime
    target: str | None
    state: str | None
    since: datetime | None
    opened_at: datetime | None
    reason: str | None
    n: int
    bad: int
    no_data: int
    runs: int
    slow: int
    last_at: datetime | None
    last_verdict: str | None
    last_value: float | None
    last_bound: float | None
    last_why: str | None
    last_data_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class BreakerStatus:
    """One breaker: where it stands, what that means for a rollout, and the numbers behind it."""

    name: str
    state: State | Literal["not watched"]
    position: Position
    why: str
    since: datetime | None = None
    held_by: tuple[str, ...] = ()
    value: float | None = None
    bound: float | None = None
    last_verdict: Verdict | None = None
    last_why: str = ""
    last_at: datetime | None = None
    n: int = 0
    bad: int = 0
    no_data: int = 0
    runs: int = 0
    slow: int = 0


@dataclass(frozen=True)
class Health:
    """How the target of a release is. ``why`` has a line for everything that is not ok; it is empty when all is."""

    state: State
    why: tuple[str, ...]
    breakers: tuple[BreakerStatus, ...]
    release: str = ""
    target: str | None = None
    at: datetime | None = None
    holds: tuple[Hold, ...] = ()

    @property
    def ok(self) -> bool:
        """True only when everything watched was seen to be good."""
        return self.state == "ok"

    def as_json(self) -> dict[str, Any]:
        """Plain values; times in ISO 8601 with their offset."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def health_of(release: str, plan: HealthPlan, standings: Sequence[Standing], holds: Sequence[Hold]) -> Health:
    """What the breakers add up to: bad when any is open, half-open or held; else no data when any has none; else ok."""
    breakers = tuple(_status(plan, standing, holds) for standing in standings)
    whole = [str(hold) for hold in holds if hold.breaker not in {each.name for each in breakers}]
    bad = [*whole, *(f"{each.name}: {each.why}" for each in breakers if each.state == "bad")]
    unseen = [f"{each.name}: {each.why}" for each in breakers if each.state == "no data"]
    if not any(each.state != "not watched" for each in breakers):
        unseen.append("nothing is watched")
    return Health(
        state="bad" if bad else "no data" if unseen else "ok",
        why=(*bad, *unseen),
        breakers=breakers,
        release=release,
        target=standings[0].target if standings else None,
        at=standings[0].now if standings else None,
        holds=tuple(holds),
    )


def _status(plan: HealthPlan, found: Standing, holds: Sequence[Hold]) -> BreakerStatus:
    mine = [hold for hold in holds if hold.breaker == found.breaker]
    position: Position = "open" if found.state == "open" else "half-open" if found.state == "half_open" else "closed"
    state, why = _judged(plan, found, position, mine)
    return BreakerStatus(
        name=found.breaker,
        state=state,
        position=position,
        why=why,
        since=found.since,
        held_by=tuple(hold.held_by for hold in mine),
        value=found.last_value,
        bound=found.last_bound,
        last_verdict=_verdict(found.last_verdict),
        last_why=found.last_why or "",
        last_at=found.last_at,
        n=found.n,
        bad=found.bad,
        no_data=found.no_data,
        runs=found.runs,
        slow=found.slow,
    )


def _judged(
    plan: HealthPlan, found: Standing, position: Position, mine: Sequence[Hold]
) -> tuple[State | Literal["not watched"], str]:
    if mine:
        return "bad", "; ".join(str(hold) for hold in mine)
    if (reason := plan.signals[found.breaker].not_watched) is not None:
        return "not watched", reason
    if position != "closed":
        return "bad", f"{position} since {_time(found.opened_at)}: {found.reason}"
    missing = _missing(plan, found)
    return ("no data", missing) if missing else ("ok", found.last_why or "")


def _missing(plan: HealthPlan, found: Standing) -> str:
    """Why there is no verdict on a closed breaker; empty when there is one."""
    stale = found.now - timedelta(seconds=plan.stale_s)
    if found.last_at is None:
        return "it was never looked at: does the health monitor run?"
    if found.last_at <= stale:
        return f"nobody has looked since {_time(found.last_at)}: does the health monitor run?"
    if found.last_data_at is None or found.last_data_at <= stale:
        return found.last_why or "not known why"
    return f"fewer than {plan.min_samples} samples with data so far" if found.n < plan.min_samples else ""


def _verdict(stored: str | None) -> Verdict | None:
    match stored:
        case "ok" | "bad":
            return stored
        case "no_data":
            return "no data"
        case _:
            return None


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else "a time not known"


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value
