"""The execution plan of STAGE 4, all of it from the release file: what is measured, for how long, by whom, and when it stops."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from comporta.capacity.ladder import owed
from comporta.release.capacity import CapacityPlan, LadderPlan
from comporta.release.model import Release


@dataclass(frozen=True)
class ExecutionPlan:
    """What people agree to when they let STAGE 4 run. Values only: the same release file gives the same plan."""

    release: str
    title: str
    scope: tuple[str, ...]
    ladder: tuple[tuple[str, str], ...]
    days: float
    load_s: float
    owners: tuple[tuple[str, str], ...]
    stop_rules: tuple[str, ...]
    objectives: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def markdown(self) -> str:
        """As a page of text."""
        sections = (
            ("Scope", [f"- {line}" for line in self.scope]),
            ("Ladder", [f"- {name}: {value}" for name, value in self.ladder]),
            ("Days", [f"{self.days:g}, of which at least {_minutes(self.load_s)} are load on the shadow."]),
            ("Owners", [f"- {who}: {what}" for who, what in self.owners]),
            ("Stop rules", [f"- {line}" for line in self.stop_rules]),
            ("Objectives", [f"- {name}: {value}" for name, value in self.objectives]),
        )
        head = f"# STAGE 4, execution plan: {self.title} ({self.release})"
        return "\n\n".join([head, *(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections)]) + "\n"


def execution_plan(release: Release) -> ExecutionPlan:
    """The plan of a release: nothing in it is from anywhere else."""
    plan = release.capacity
    return ExecutionPlan(
        release=release.name,
        title=release.title,
        scope=_scope(release),
        ladder=_ladder(plan.ladder, len(release.changes)),
        days=plan.days,
        load_s=_load_s(plan.ladder, len(release.changes)),
        owners=tuple(zip(plan.owners, _duties(len(plan.owners)), strict=True)),
        stop_rules=_stop_rules(release),
        objectives=_objectives(plan),
    )


def _scope(release: Release) -> tuple[str, ...]:
    tables = dict.fromkeys(table for change in release.changes for table in change.tables)
    return (
        *(f"{change.name}: {change.title}" for change in release.changes),
        f"tables changed: {', '.join(tables)}",
        f"growth by the rows' own dates: {', '.join(f'{name} ({by})' for name, by in release.capacity.history.items())}",
        "load on the shadow server only; the target is read, with time-outs, and never loaded",
    )


def _ladder(ladder: LadderPlan, changes: int) -> tuple[tuple[str, str], ...]:
    between = max(changes - 1, 0)
    return (
        ("clients at once", ", ".join(map(str, ladder.clients))),
        ("times the rows of now", ", ".join(f"{size:g}" for size in ladder.sizes)),
        ("whole ladder", "before the release and after it"),
        (
            f"after each of the {between} changes in between",
            f"{', '.join(map(str, ladder.each_change_clients))} clients at "
            f"{', '.join(f'{size:g}x' for size in ladder.each_change_sizes)}",
        ),
        (
            "a rung",
            f"{ladder.warm_up_s:g} s warm-up, {ladder.seconds:g} s measured, {ladder.rounds} round(s)",
        ),
        ("rungs", str(_rungs(ladder, changes))),
    )


def _rungs(ladder: LadderPlan, changes: int) -> int:
    return len(owed(ladder, [f"after {n} changes" for n in range(changes + 1)]))


def _load_s(ladder: LadderPlan, changes: int) -> float:
    return _rungs(ladder, changes) * (ladder.warm_up_s + ladder.seconds)


def _duties(owners: int) -> list[str]:
    """The first runs it, the last answers for the plan; whoever stands between is told."""
    duties = ["runs it, and stops it"] + ["is told"] * max(owners - 2, 0) + ["answers for the plan"]
    return duties[:owners] if owners != 1 else ["runs it, stops it, and answers for the plan"]


def _stop_rules(release: Release) -> tuple[str, ...]:
    stop = release.capacity.stop
    return (
        f"no higher rung of a state and size once p95 is above {stop.p95_ms:g} ms",
        f"no higher rung once more than {stop.failed_share:.0%} of the transactions fail",
        f"a rung that takes longer than {stop.rung_s:g} s is cut off, and is the last of its size",
        f"none at all while less than {stop.free_share:.0%} of the shadow's disk is free",
        f"none at all while a breaker of {release.name} is open; the ladder ends when it stays so for {stop.breaker_s:g} s, or "
        "somebody holds one (comporta health hold)",
    )


def _objectives(plan: CapacityPlan) -> tuple[tuple[str, str], ...]:
    held = plan.objectives
    return (
        ("p95 of a transaction", f"at most {held.p95_ms:g} ms, at {plan.peak:g} times the mean load"),
        ("clients served at that p95", f"at least {held.clients}"),
        ("disk", f"at most {held.disk_share:.0%} full"),
        ("connections", f"at most {held.connections_share:.0%} of max_connections"),
        ("memory", f"at most {held.memory_share:.0%}"),
        ("refresh of a view", f"at most {held.refresh_share:.0%} of its interval"),
        ("planning", f"at most {held.planning_ms:g} ms"),
        ("held until", f"{plan.until}; what fails within {plan.look_ahead_months} months is a warning"),
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
