"""From alerts to a gate board in one call, over one set of bars or several together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from comporta.detector.alert import Alert
from comporta.detector.bars import Bars
from comporta.detector.baselines import BASELINES
from comporta.detector.gates import GateBoard, Wins, gates_of, wins_of
from comporta.detector.nulls import NullDraws, null_draws, null_of
from comporta.detector.score import Detection, pooled, score
from comporta.detector.settings import DetectorSettings
from comporta.detector.trades import Trade, trades_of
from comporta.detector.truth import Truth, truth_of


@dataclass(frozen=True, eq=False)
class Case:
    """One set of bars, the finest there are, and what was to be found in it."""

    bars: Bars
    truth: Truth

    @classmethod
    def of(cls, bars: Bars, settings: DetectorSettings) -> Case:
        """The case of ``bars``."""
        return cls(bars, truth_of(bars, settings))


@dataclass(frozen=True, eq=False)
class Judgement:
    """What one alerter reached over all cases; ``trades`` and ``detections`` are in the order of the cases."""

    detection: Detection
    wins: Wins
    detections: tuple[Detection, ...]
    trades: tuple[tuple[Trade, ...], ...]

    def board(self, settings: DetectorSettings, baselines: Mapping[str, Judgement] | None = None) -> GateBoard:
        """The gates, with the baselines beside them."""
        others = {name: (other.detection, other.wins) for name, other in (baselines or {}).items()}
        return gates_of(self.detection, self.wins, settings, baselines=others)


def judge(
    cases: Sequence[Case],
    alerts: Sequence[Sequence[Alert]],
    settings: DetectorSettings,
    *,
    reward_risk: float | None = None,
) -> Judgement:
    """The judgement of ``alerts``, one sequence a case, traded at ``reward_risk`` or at what the settings declare.

    All alerts count for all gates: give those of one kind, unless several kinds are to be judged as one detector.
    """
    detections = tuple(score(case.truth, said, settings) for case, said in zip(cases, alerts, strict=True))
    trades = tuple(
        trades_of(case.bars, said, settings, reward_risk=reward_risk, sessions=case.truth.sessions)
        for case, said in zip(cases, alerts, strict=True)
    )
    draws = [
        null_draws(case.bars, some, case.truth.sessions, settings) for case, some in zip(cases, trades, strict=True)
    ]
    null = null_of(NullDraws.added(draws), [trade for some in trades for trade in some], settings) if cases else None
    parts = [(some, case.truth.sessions) for case, some in zip(cases, trades, strict=True)]
    return Judgement(
        pooled(detections, settings), wins_of(parts, null, settings, reward_risk=reward_risk), detections, trades
    )


def judge_baselines(
    cases: Sequence[Case],
    settings: DetectorSettings,
    *,
    reward_risk: float | None = None,
    on_done: Callable[[str], object] | None = None,
) -> dict[str, Judgement]:
    """What each baseline reaches over the same cases, at the same reward:risk; ``on_done`` hears each name."""
    found = {}
    for name, alerter in BASELINES.items():
        found[name] = judge(cases, [alerter(case.bars, settings) for case in cases], settings, reward_risk=reward_risk)
        if on_done is not None:
            on_done(name)
    return found
