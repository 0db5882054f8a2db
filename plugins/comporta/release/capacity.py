"""The plan of STAGE 4, read from ``config/release.yaml``: the load ladder, its stop rules, and what the system must hold."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Self

from pydantic import Field, model_validator

from comporta.files import Strict

Clients = Annotated[int, Field(ge=1, le=1000)]
Size = Annotated[float, Field(ge=0.1, le=64)]
Name = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*$")]
Share = Annotated[float, Field(gt=0, le=1)]


def _climb(values: tuple[float, ...], name: str) -> None:
    if list(values) != sorted(set(values)):
        raise ValueError(f"{name} must rise from rung to rung, found {list(values)}")


class LadderPlan(Strict):
    """Which rungs are climbed, and for how long. ``sizes`` are times the rows of the target.

    The whole ladder is climbed before the release and after it; after each change in between only ``each_change_clients`` at
    ``each_change_sizes``, which tells what each change buys. ``rounds`` is how often a whole ladder is climbed at each size:
    the difference is the noise. ``seconds`` is the least that a rung is measured for: one with slow transactions lasts longer.
    """

    clients: tuple[Clients, ...] = Field(default=(1, 2, 4, 8, 16), min_length=1)
    sizes: tuple[Size, ...] = Field(default=(1, 2, 4), min_length=1)
    seconds: Annotated[float, Field(gt=0, le=3600)] = 2
    warm_up_s: Annotated[float, Field(ge=0, le=600)] = 0.5
    rounds: Annotated[int, Field(ge=1, le=20)] = 2
    each_change_clients: tuple[Clients, ...] = (4,)
    each_change_sizes: tuple[Size, ...] = (1,)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        _climb(self.clients, "clients")
        _climb(self.sizes, "sizes")
        for name, some, every in (
            ("each_change_clients", self.each_change_clients, self.clients),
            ("each_change_sizes", self.each_change_sizes, self.sizes),
        ):
            if unknown := set(some) - set(every):
                raise ValueError(f"{name}: {sorted(unknown)} is not on the ladder {list(every)}")
        return self


class StopPlan(Strict):
    """When the ladder climbs no further: of a state and size after a bad rung, altogether when the target's breakers stay open."""

    p95_ms: Annotated[float, Field(gt=0)] = 5_000.0
    failed_share: Share = 0.01
    rung_s: Annotated[float, Field(gt=0)] = 60.0  # a rung that takes so long is cut off, and is the last of its size
    free_share: Share = 0.1  # of the shadow's disk
    breaker_s: Annotated[float, Field(ge=0)] = 300.0  # without load, for a breaker of the target to close


class Objectives(Strict):
    """What the system must hold until the end of the plan."""

    p95_ms: Annotated[float, Field(gt=0)] = 250.0
    clients: Clients = 8
    disk_share: Share = 0.85
    connections_share: Share = 0.8
    memory_share: Share = 0.8
    refresh_share: Share = 0.5  # of the interval at which a view's refresh is scheduled
    planning_ms: Annotated[float, Field(gt=0)] = 20.0


class CapacityPlan(Strict):
    """STAGE 4. ``history`` names, for each table that grows, the column that says when a row was made.

    ``peak`` is how many times the mean rate the busiest time asks for; ``load_grows`` says with what the rate grows: with the
    rows, or not at all. ``disk_bytes`` and ``memory_bytes`` are for servers that do not tell. ``look_ahead_months``: an objective
    that falls within them is a warning.
    """

    ladder: LadderPlan = LadderPlan()
    quick: LadderPlan = LadderPlan(
        clients=(1, 2, 4, 8), sizes=(0.5, 1), seconds=2, rounds=1, each_change_clients=(4,), each_change_sizes=(1,)
    )
    stop: StopPlan = StopPlan()
    objectives: Objectives = Objectives()
    history: dict[str, Name] = Field(default_factory=dict)
    shares: dict[Name, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    peak: Annotated[float, Field(ge=1, le=1000)] = 3.0
    load_grows: Annotated[str, Field(pattern="^(with_rows|not)$")] = "with_rows"
    disk_bytes: Annotated[int, Field(gt=0)] | None = None
    memory_bytes: Annotated[int, Field(gt=0)] | None = None
    until: date = date(2029, 12, 31)
    look_ahead_months: Annotated[int, Field(ge=1, le=120)] = 12
    days: Annotated[float, Field(gt=0, le=90)] = 1.0  # how long the stage may take, for the execution plan
    owners: tuple[str, ...] = ("DBA", "PO")
