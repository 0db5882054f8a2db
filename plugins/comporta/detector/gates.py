"""The three gates: capture, false positives, wins. Each says PASS, FAIL or INSUFFICIENT, with n and interval, and beside whom.

A rate from too few events is INSUFFICIENT, neither good nor bad. ``confident`` tells whether both intervals lie on the right side
whole: at 50 events a detector of 0.92 passes 0.85 nearly always but confidently one time in four, at 250 events nine in ten.

A win rate without its reward:risk and its null is a number without a meaning: at reward:risk 0.5 entries drawn at random win 60 %.
So the gate of wins asks two things, the rate at the declared reward:risk, and a null that is beaten; net expectancy stands beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from comporta.detector.intervals import Interval, by_session
from comporta.detector.nulls import Null
from comporta.detector.score import Detection, Rate, rate_of
from comporta.detector.settings import DetectorSettings
from comporta.detector.trades import Trade


class Verdict(StrEnum):
    """What a gate says."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    INSUFFICIENT = "INSUFFICIENT"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a simpler alerter reaches on the same bars; ``facts`` belong to the value, as the null does to a win rate."""

    name: str
    value: float | None
    n: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "value": self.value, "n": self.n, **self.facts}


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: ``rate`` against ``threshold``. ``facts`` are the gate's own further numbers, plain JSON values."""

    name: str
    verdict: Verdict
    reason: str
    rate: Rate
    threshold: float
    n_at_least: int
    confident: bool
    baselines: tuple[Baseline, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **self.rate.to_dict(),
            "verdict": self.verdict.value,
            "reason": self.reason,
            "threshold": self.threshold,
            "n_at_least": self.n_at_least,
            "confident": self.confident,
            "baselines": [baseline.to_dict() for baseline in self.baselines],
            **self.facts,
        }


@dataclass(frozen=True, slots=True)
class Wins:
    """What the trades of a rule brought, and the null they are held against; made by ``wins_of``."""

    rate: Rate
    reward_risk: float | None
    """What all the trades declared, their targets rounded to ticks; None when they declared different ones."""
    null: Null | None
    net_points: float | None
    """The mean of a trade."""
    net_points_interval: Interval | None
    total_points: float
    outcomes: Mapping[str, int]
    point_value: float

    @property
    def skill(self) -> float | None:
        """The win rate less the null's."""
        value = self.rate.value
        return None if value is None or self.null is None else value - self.null.win

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the rate left out."""

        def brl(points: float | None) -> float | None:
            return None if points is None else points * self.point_value

        interval = self.net_points_interval
        return {
            "reward_risk": self.reward_risk,
            "null_win": self.null.win if self.null else None,
            "skill": self.skill,
            "p_value": self.null.p_value if self.null else None,
            "null": self.null.to_dict() if self.null else None,
            "net_points": self.net_points,
            "net_points_interval": list(interval) if interval else None,
            "net_brl": brl(self.net_points),
            "net_brl_interval": [brl(interval[0]), brl(interval[1])] if interval else None,
            "total_points": self.total_points,
            "total_brl": brl(self.total_points),
            "outcomes": dict(self.outcomes),
        }


@dataclass(frozen=True, slots=True)
class GateBoard:
    """The three gates of one run."""

    capture: Gate
    false_positives: Gate
    wins: Gate

    @property
    def verdict(self) -> Verdict:
        """FAIL when any gate fails, else INSUFFICIENT when any says so, else PASS."""
        said = [gate.verdict for gate in (self.capture, self.false_positives, self.wins)]
        return next((each for each in (Verdict.FAIL, Verdict.INSUFFICIENT) if each in said), Verdict.PASS)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, one a gate."""
        return {each.name: each.to_dict() for each in (self.capture, self.false_positives, self.wins)}


def wins_of(
    parts: Sequence[tuple[Sequence[Trade], Sequence[int]]],
    null: Null | None,
    settings: DetectorSettings,
    *,
    reward_risk: float | None = None,
) -> Wins:
    """What trades brought; each part is one set of bars: its trades and the numbers of its scored sessions.

    ``reward_risk`` is what was declared, unless it was that of the settings.
    """
    declared = settings.trade.reward_risk if reward_risk is None else reward_risk
    hits: list[tuple[int, int]] = []
    points: list[tuple[float, int]] = []
    outcomes: dict[str, int] = {}
    for trades, sessions in parts:
        of: dict[int, list[Trade]] = {session: [] for session in sessions}
        for trade in trades:
            of.setdefault(trade.session, []).append(trade)
            outcomes[trade.outcome] = outcomes.get(trade.outcome, 0) + 1
        hits += [(sum(trade.win for trade in here), len(here)) for here in of.values()]
        points += [(sum(trade.net_points for trade in here), len(here)) for here in of.values()]
    total, n = sum(earned for earned, _ in points), sum(count for _, count in points)
    off = [abs(trade.reward_risk - declared) * trade.risk for trades, _ in parts for trade in trades]
    gates = settings.gates
    return Wins(
        rate=rate_of(hits, settings),
        reward_risk=declared if max(off, default=0.0) <= settings.market.tick else None,
        null=null,
        net_points=total / n if n else None,
        net_points_interval=by_session(
            points, confidence=gates.confidence, draws=gates.bootstrap_draws, seed=settings.seed
        ),
        total_points=total,
        outcomes=dict(sorted(outcomes.items())),
        point_value=settings.market.point_value,
    )


def gates_of(
    detection: Detection,
    wins: Wins,
    settings: DetectorSettings,
    *,
    baselines: Mapping[str, tuple[Detection, Wins]] | None = None,
) -> GateBoard:
    """The gate board of one run; ``baselines`` are what simpler alerters reach on the same bars, by name."""
    others = baselines or {}
    return GateBoard(
        capture=capture_gate(
            detection, settings, [_baseline(name, found.capture) for name, (found, _) in others.items()]
        ),
        false_positives=false_positives_gate(
            detection, settings, [_baseline(name, found.false_positives) for name, (found, _) in others.items()]
        ),
        wins=wins_gate(wins, settings, [_won_baseline(name, traded) for name, (_, traded) in others.items()]),
    )


def capture_gate(detection: Detection, settings: DetectorSettings, baselines: Sequence[Baseline] = ()) -> Gate:
    """Opportunities with an alert in time, of all opportunities."""
    rate, least, needed = detection.capture, settings.gates.capture_min, settings.gates.opportunities_at_least
    verdict, reason = _verdict(rate, "opportunities", least, needed, at_most=False)
    delays = sorted(detection.delays_min)
    facts = {
        "late": detection.late,
        "median_delay_min": delays[len(delays) // 2] if delays else None,
        "sessions": len(detection.sessions),
    }
    confident = _low(rate) >= least
    return Gate("capture", verdict, reason, rate, least, needed, confident, tuple(baselines), facts)


def false_positives_gate(detection: Detection, settings: DetectorSettings, baselines: Sequence[Baseline] = ()) -> Gate:
    """Alerts outside every zone, of all alerts."""
    rate, most, needed = detection.false_positives, settings.gates.false_positives_max, settings.gates.alerts_at_least
    verdict, reason = _verdict(rate, "alerts", most, needed, at_most=True)
    facts = {"duplicates": detection.duplicates, "sessions": len(detection.sessions)}
    confident = _high(rate) <= most
    return Gate("false_positives", verdict, reason, rate, most, needed, confident, tuple(baselines), facts)


def wins_gate(wins: Wins, settings: DetectorSettings, baselines: Sequence[Baseline] = ()) -> Gate:
    """Trades with a net profit, of all trades: the rate must reach the threshold *and* beat its null."""
    gates, rate = settings.gates, wins.rate
    verdict, reason = _verdict(rate, "trades", gates.wins_min, gates.trades_at_least, at_most=False)
    if verdict is not Verdict.INSUFFICIENT:
        at = "mixed reward:risk" if wins.reward_risk is None else f"reward:risk {wins.reward_risk:g}"
        reason = f"{reason[:-1]} at {at}; {_against_null(wins)}."
        if wins.reward_risk is None or not _beats_null(wins, settings):
            verdict = Verdict.FAIL
    confident = _low(rate) >= gates.wins_min
    return Gate(
        "wins",
        verdict,
        reason,
        rate,
        gates.wins_min,
        gates.trades_at_least,
        confident,
        tuple(baselines),
        wins.to_dict(),
    )


def _beats_null(wins: Wins, settings: DetectorSettings) -> bool:
    """Whether the trades won more than the null, by more than chance explains."""
    skill = wins.skill
    return wins.null is not None and skill is not None and skill > 0 and wins.null.p_value < settings.gates.null_p_max


def _against_null(wins: Wins) -> str:
    if wins.null is None or wins.skill is None:
        return "no null could be drawn"
    earned = "nothing" if wins.net_points is None else f"{wins.net_points:+.1f} points a trade net"
    return (
        f"the same trades on random days win {wins.null.win:.1%}, a difference of {100 * wins.skill:+.1f} points of percent "
        f"(p = {wins.null.p_value:.3f}); {earned}"
    )


def _verdict(rate: Rate, what: str, threshold: float, needed: int, *, at_most: bool) -> tuple[Verdict, str]:
    """The verdict on ``rate`` alone, and the sentence that says why."""
    value = rate.value
    if value is None or rate.n < needed:
        return Verdict.INSUFFICIENT, f"{rate.n} {what} were seen, at least {needed} are needed."
    good = value <= threshold if at_most else value >= threshold
    asked = f"at {'most' if at_most else 'least'} {threshold:.0%}"
    return Verdict.PASS if good else Verdict.FAIL, f"{rate.hits} of {rate.n} {what} are {value:.1%}, {asked} is asked."


def _low(rate: Rate) -> float:
    """The lowest value that either interval allows."""
    return min((each[0] for each in (rate.interval, rate.interval_by_session) if each), default=float("-inf"))


def _high(rate: Rate) -> float:
    """The highest value that either interval allows."""
    return max((each[1] for each in (rate.interval, rate.interval_by_session) if each), default=float("inf"))


def _baseline(name: str, rate: Rate) -> Baseline:
    return Baseline(name, rate.value, rate.n)


def _won_baseline(name: str, wins: Wins) -> Baseline:
    told = wins.to_dict()
    beside = ("reward_risk", "null_win", "p_value", "net_points")
    return Baseline(name, wins.rate.value, wins.rate.n, {fact: told[fact] for fact in beside})
