"""Walk-forward tuning: settings are chosen on sessions past and judged on the ones after them, and every trial is counted.

A grid of settings is searched on each training window; the choice is then scored on the test window that follows. The two are kept
apart in two ways. **Purge**: what hindsight says of a training session is told from bars before the test only (the truth reads 20
sessions ahead, which would be the test's), and the last ``purge_sessions`` before the test are left out. **Embargo**: the first
``embargo_sessions`` after the training are not tested on either, for what the market remembers from one day to the next.

The settings in use are a candidate like the others, so the page can say whether tuning is better than leaving them alone.
The best of many trials is good by luck alone: ``deflated_sharpe`` says how good (Bailey and Lopez de Prado, "The Deflated Sharpe
Ratio", 2014).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from math import e, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, Self, get_args

import numpy as np

from comporta.detector.alert import KINDS, Alert, Kind
from comporta.detector.bars import Bars
from comporta.detector.processor import processador_bdi
from comporta.detector.score import SessionCount, score
from comporta.detector.settings import DetectorSettings
from comporta.detector.trades import trades_of
from comporta.detector.truth import Truth, truth_of
from comporta.errors import ComportaError, ConfigurationError

Objective = Literal["detection", "wins"]
"""``detection``: the smaller of the margins by which capture and false positives keep their gates; ``wins``: a session's Sharpe."""
Value = float | int | bool
EULER_GAMMA = 0.5772156649015329
FROZEN = 0
"""The number of the candidate that changes nothing."""


class TooFewSessions(ComportaError):
    """The bars hold too few scored sessions for a single split."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is tuned, and how: ``config/detector-tuning.yaml``. ``axes`` are dotted names of settings with the values to try."""

    axes: Mapping[str, tuple[Value, ...]]
    objective: Objective = "detection"
    kinds: tuple[Kind, ...] = ("volatility_range",)
    train_sessions: int = 40
    test_sessions: int = 20
    purge_sessions: int = 1
    embargo_sessions: int = 1
    max_trials: int = 500

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """The tuning of a parsed file; an unknown name, an empty axis or a grid above ``max_trials`` is refused."""
        known = [each.name for each in fields(cls)]
        unknown = sorted(str(name) for name in mapping if name not in known)
        if unknown:
            raise ConfigurationError(
                f"tuning: unknown {', '.join(unknown)}", remedy=f"Known here are: {', '.join(known)}."
            )
        axes = mapping.get("axes")
        if not isinstance(axes, Mapping) or not axes:
            raise ConfigurationError(
                f"tuning.axes: expected names of settings with lists of values, found {axes!r}",
                remedy="Name one setting at least, such as range.threshold: [1.8, 1.9, 2.0].",
            )
        for name, values in axes.items():
            if not isinstance(values, list | tuple) or not values or len(set(values)) < len(values):
                raise ConfigurationError(
                    f"tuning.axes.{name}: expected a list of different values, found {values!r}",
                    remedy="Write the values to try, each once.",
                )
        if mapping.get("objective", "detection") not in get_args(Objective):
            raise ConfigurationError(
                f"tuning.objective: expected detection or wins, found {mapping['objective']!r}",
                remedy="Write one of the two.",
            )
        strange = [kind for kind in mapping.get("kinds", ()) if kind not in KINDS]
        if strange or mapping.get("kinds") == []:
            raise ConfigurationError(
                f"tuning.kinds: expected kinds of alerts, found {strange or 'none'}",
                remedy=f"Known are: {', '.join(KINDS)}.",
            )
        for name in ("train_sessions", "test_sessions", "purge_sessions", "embargo_sessions", "max_trials"):
            value, least = mapping.get(name, 1), 0 if name in ("purge_sessions", "embargo_sessions") else 1
            if type(value) is not int or value < least:
                raise ConfigurationError(
                    f"tuning.{name}: expected a whole number of {least} or more, found {value!r}",
                    remedy="Write a whole number.",
                )
        made = cls(
            **{
                **mapping,
                "axes": {str(name): tuple(values) for name, values in axes.items()},
                "kinds": tuple(mapping.get("kinds", cls.__dataclass_fields__["kinds"].default)),
            }
        )
        if made.trials > made.max_trials:
            raise ConfigurationError(
                f"tuning.axes: {made.trials} settings are more than max_trials = {made.max_trials}",
                remedy="Try fewer values: every trial more makes the best of them better by luck.",
            )
        return made

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The tuning that a YAML file says."""
        import yaml

        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(found, Mapping):
            raise ConfigurationError(
                f"{path.name}: expected a mapping, found {type(found).__name__}",
                remedy="Write name: value, one a line.",
            )
        return cls.from_mapping(found)

    @property
    def trials(self) -> int:
        """How many settings the grid holds."""
        return int(np.prod([len(values) for values in self.axes.values()]))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point of the grid. ``number`` 0 is the settings in use; ``changes`` are dotted names and values."""

    number: int
    changes: Mapping[str, Value]

    def applied(self, base: DetectorSettings) -> DetectorSettings:
        """``base`` with the changes made."""
        mapping = base.to_mapping()
        for name, value in self.changes.items():
            part, _, field = name.partition(".")
            inner = mapping.get(part)
            if field and isinstance(inner, dict):
                inner[field] = value
            else:
                mapping[name] = value
        return DetectorSettings.from_mapping(mapping)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"number": self.number, "changes": dict(self.changes)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        return cls(found["number"], found["changes"])


@dataclass(frozen=True, slots=True)
class Split:
    """Session numbers of one training window and of the test after it; ``dropped`` are the purged and the embargoed between."""

    number: int
    train: tuple[int, ...]
    dropped: tuple[int, ...]
    test: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "number": self.number,
            "train": list(self.train),
            "dropped": list(self.dropped),
            "test": list(self.test),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        return cls(found["number"], tuple(found["train"]), tuple(found["dropped"]), tuple(found["test"]))


@dataclass(frozen=True, slots=True)
class Day:
    """What one session counted under one setting; ``net`` is points."""

    captured: int = 0
    opportunities: int = 0
    false: int = 0
    alerts: int = 0
    trades: int = 0
    wins: int = 0
    net: float = 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """What some sessions counted, day by day."""

    days: tuple[Day, ...]

    def of(self, name: str) -> float:
        """The sum of one count."""
        return float(sum(getattr(day, name) for day in self.days))

    @property
    def capture(self) -> float | None:
        """Captured opportunities of all."""
        return _ratio(self.of("captured"), self.of("opportunities"))

    @property
    def false_positives(self) -> float | None:
        """False alerts of all."""
        return _ratio(self.of("false"), self.of("alerts"))

    @property
    def win(self) -> float | None:
        """Won trades of all."""
        return _ratio(self.of("wins"), self.of("trades"))

    @property
    def net_points(self) -> float | None:
        """Net points of a trade, the mean."""
        return _ratio(self.of("net"), self.of("trades"))

    @property
    def sharpe(self) -> float | None:
        """Mean over deviation of a session's net points (not annualised); None when nothing varies."""
        return sharpe([day.net for day in self.days])

    def score(self, objective: Objective, settings: DetectorSettings) -> float | None:
        """What tuning maximises; None when too little was counted to say anything."""
        if objective == "wins":
            return self.sharpe
        if self.capture is None or self.false_positives is None:
            return None
        return min(self.capture - settings.gates.capture_min, settings.gates.false_positives_max - self.false_positives)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the measures, without the days."""
        return {
            "sessions": len(self.days),
            **{name: self.of(name) for name in Day.__dataclass_fields__},
            "capture": self.capture,
            "false_positive_rate": self.false_positives,
            "win": self.win,
            "net_points": self.net_points,
            "sharpe": self.sharpe,
        }


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting on one split: what it counted in training, and on the test that no choice may look at."""

    split: int
    candidate: Candidate
    train: Tally
    test: Tally

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, from which ``from_dict`` makes it again: what a mapped task hands on."""
        return {
            "split": self.split,
            "candidate": self.candidate.to_dict(),
            "train": [list(asdict(day).values()) for day in self.train.days],
            "test": [list(asdict(day).values()) for day in self.test.days],
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        return cls(
            found["split"],
            Candidate.from_dict(found["candidate"]),
            Tally(tuple(Day(*day) for day in found["train"])),
            Tally(tuple(Day(*day) for day in found["test"])),
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """What training chose on one split, and what the settings in use did on the same test."""

    split: Split
    trial: Trial
    frozen: Trial


@dataclass(frozen=True, eq=False)
class Tuned:
    """The outcome of a walk-forward; the tests of its splits do not overlap, so they are added up."""

    tuning: Tuning
    settings: DetectorSettings
    chosen: tuple[Chosen, ...]
    trials: tuple[Trial, ...]

    @property
    def in_sample(self) -> Tally:
        """What the choices counted where they were chosen; sessions of overlapping windows count in each."""
        return _added(each.trial.train for each in self.chosen)

    @property
    def out_of_sample(self) -> Tally:
        """What the choices counted on their tests."""
        return _added(each.trial.test for each in self.chosen)

    @property
    def frozen(self) -> Tally:
        """What the settings in use counted on the same tests."""
        return _added(each.frozen.test for each in self.chosen)

    @property
    def trials_counted(self) -> int:
        """How many settings were tried; the splits try the same ones."""
        return len({trial.candidate.number for trial in self.trials})

    @property
    def candidate(self) -> Candidate:
        """What the newest training window chose: what a run from now on would use."""
        return self.chosen[-1].trial.candidate

    @property
    def tuned_settings(self) -> DetectorSettings:
        """The settings in use with the changes of ``candidate`` made."""
        return self.candidate.applied(self.settings)

    @property
    def adopt(self) -> bool:
        """Whether re-tuning did better than the settings in use on sessions that neither was chosen on."""
        tuned = self.out_of_sample.score(self.tuning.objective, self.settings)
        frozen = self.frozen.score(self.tuning.objective, self.settings)
        return tuned is not None and (frozen is None or tuned > frozen)

    @property
    def advice(self) -> str:
        """One sentence: adopt or not, and the numbers."""
        of = self.tuning.objective
        tuned, frozen = self.out_of_sample, self.frozen
        said = (
            f"out of sample {_words(tuned, of)} when re-tuned, {_words(frozen, of)} with the settings in use "
            f"({self.trials_counted} settings tried on {len(self.chosen)} splits)"
        )
        return f"{'Re-tuning helps' if self.adopt else 'Keep the settings in use'}: {said}."

    @property
    def deflated(self) -> Mapping[str, float | None]:
        """How much of the best trial's Sharpe ratio luck explains, given the number of trials; over all tests of one setting."""
        by: dict[int, list[Trial]] = {}
        for trial in self.trials:
            by.setdefault(trial.candidate.number, []).append(trial)
        series = {number: [day.net for each in some for day in each.test.days] for number, some in by.items()}
        ratios = {number: found for number, days in series.items() if (found := sharpe(days)) is not None}
        if not ratios:
            return {"best_sharpe": None, "luck_sharpe": None, "probability": None, "trials": 0, "best": None}
        best = max(ratios, key=lambda number: (ratios[number], -number))
        luck = expected_best_sharpe(list(ratios.values()))
        return {
            "best_sharpe": ratios[best],
            "luck_sharpe": luck,
            "probability": probabilistic_sharpe(series[best], luck),
            "trials": len(ratios),
            "best": best,
        }

    def heatmap(self, x: str | None = None, y: str | None = None) -> dict[str, Any]:
        """The mean score over splits and the other axes, by two axes (the first two): rows are ``y``; None where unknown."""
        names = sorted(self.tuning.axes, key=lambda name: len(self.tuning.axes[name]) < 2)
        x = x or names[0]
        y = y or next((name for name in names if name != x), x)
        xs, ys = list(self.tuning.axes[x]), list(self.tuning.axes[y])

        def table(part: str) -> list[list[float | None]]:
            cells: dict[tuple[Value, Value], list[float]] = {}
            for trial in self.trials:
                at = trial.candidate.changes
                found = getattr(trial, part).score(self.tuning.objective, self.settings)
                if x in at and y in at and found is not None:
                    cells.setdefault((at[x], at[y]), []).append(found)
            return [[_mean(cells.get((across, down), [])) for across in xs] for down in (ys if y != x else ys[:1])]

        return {
            "objective": self.tuning.objective,
            "x": x,
            "xs": xs,
            "y": y,
            "ys": ys if y != x else ys[:1],
            "in_sample": table("train"),
            "out_of_sample": table("test"),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the report: decay, number of trials, heatmap, deflated statistics, the choice of each split."""
        inside, outside, frozen = self.in_sample, self.out_of_sample, self.frozen
        return {
            "objective": self.tuning.objective,
            "trials": self.trials_counted,
            "splits": [
                {
                    **each.split.to_dict(),
                    "chosen": each.trial.candidate.to_dict(),
                    "in_sample": each.trial.train.to_dict(),
                    "out_of_sample": each.trial.test.to_dict(),
                    "frozen_out_of_sample": each.frozen.test.to_dict(),
                }
                for each in self.chosen
            ],
            "decay": {
                name: {
                    "in_sample": inside.to_dict()[name],
                    "out_of_sample": outside.to_dict()[name],
                    "frozen_out_of_sample": frozen.to_dict()[name],
                }
                for name in ("capture", "false_positive_rate", "win", "net_points", "sharpe")
            },
            "heatmap": self.heatmap(),
            "deflated": dict(self.deflated),
            "candidate": self.candidate.to_dict(),
            "adopt": self.adopt,
            "advice": self.advice,
        }


def candidates(tuning: Tuning, base: DetectorSettings) -> tuple[Candidate, ...]:
    """The settings in use as number 0, then every point of the grid; each is checked against the names and types of ``base``."""
    points = [dict(zip(tuning.axes, values, strict=True)) for values in product(*tuning.axes.values())]
    made = (Candidate(FROZEN, {}), *(Candidate(number, point) for number, point in enumerate(points, start=1)))
    for each in made:
        each.applied(base)
    return made


def shards(some: Sequence[Candidate], count: int) -> tuple[tuple[Candidate, ...], ...]:
    """``some`` dealt out to at most ``count`` tasks, as evenly as can be; none is empty."""
    return tuple(tuple(some[first::count]) for first in range(min(count, len(some))))


def splits(sessions: Sequence[int], tuning: Tuning) -> tuple[Split, ...]:
    """Training windows and the tests after them, which follow one another without overlap; ``sessions`` are the scored ones.

    A last test may be shorter, down to half of ``test_sessions``: sessions are scarce.
    """
    ordered = sorted(sessions)
    made: list[Split] = []
    gap = tuning.purge_sessions + tuning.embargo_sessions
    begin = 0
    while True:
        train_end = begin + tuning.train_sessions
        test = ordered[train_end + gap : train_end + gap + tuning.test_sessions]
        if 2 * len(test) < tuning.test_sessions or not test:
            break
        made.append(
            Split(
                len(made),
                tuple(ordered[begin:train_end]),
                tuple(ordered[train_end : train_end + gap]),
                tuple(test),
            )
        )
        begin += tuning.test_sessions
    if not made:
        needed = tuning.train_sessions + gap + (tuning.test_sessions + 1) // 2
        raise TooFewSessions(
            f"walk-forward: {needed} scored sessions are needed, found {len(ordered)}",
            remedy="Give more bars, or shorten train_sessions or test_sessions of the tuning.",
        )
    return tuple(made)


@dataclass(frozen=True, eq=False)
class Workbench:
    """Bars with what all trials on them share: the splits, and of each the truth of its training and of its test."""

    bars: Bars
    base: DetectorSettings
    tuning: Tuning
    splits: tuple[Split, ...]
    truths: tuple[tuple[Truth, Truth], ...]

    @classmethod
    def of(cls, bars: Bars, base: DetectorSettings, tuning: Tuning) -> Workbench:
        """Prepare ``bars`` (the finest there are); a mapped task does this once and then takes its shard of candidates."""
        whole = truth_of(bars, base)
        made = splits(whole.sessions, tuning)
        truths = []
        for split in made:
            # Of the training no more may be known than on the eve of what follows it.
            past = bars[: int(np.searchsorted(bars.session, split.train[-1], side="right"))]
            truths.append((_only(truth_of(past, base), split.train), _only(whole, split.test)))
        return cls(bars, base, tuning, made, tuple(truths))

    def evaluate(self, candidate: Candidate) -> tuple[Trial, ...]:
        """``candidate`` on every split. The detector runs once over all bars: it is causal, and each part counts its sessions."""
        settings = candidate.applied(self.base)
        light = replace(settings, gates=replace(settings.gates, bootstrap_draws=1))
        alerts = list(alerts_of(self.bars, settings, self.tuning.kinds))
        nets: dict[int, list[float]] = {}
        for trade in trades_of(self.bars, alerts, settings):
            nets.setdefault(trade.session, []).append(trade.net_points)

        def tally(truth: Truth) -> Tally:
            counts = score(truth, alerts, light).sessions
            return Tally(tuple(_day(count, nets.get(s, ())) for s, count in zip(truth.sessions, counts, strict=True)))

        return tuple(
            Trial(split.number, candidate, tally(train), tally(test))
            for split, (train, test) in zip(self.splits, self.truths, strict=True)
        )


def alerts_of(bars: Bars, settings: DetectorSettings, kinds: Iterable[Kind]) -> Iterable[Alert]:
    """The alerts of those kinds; the detectors of the others do not run."""
    wanted = set(kinds)
    only = replace(
        settings,
        range=replace(settings.range, enabled="volatility_range" in wanted),
        zscore=replace(settings.zscore, enabled="volatility_zscore" in wanted),
        patterns=replace(
            settings.patterns,
            engulfing="engulfing" in wanted,
            rsi_divergence="rsi_divergence" in wanted,
            breakout="breakout" in wanted,
        ),
    )
    return processador_bdi(bars.resampled(settings.market.period_min), only)


def choose(trials: Iterable[Trial], tuning: Tuning, base: DetectorSettings) -> Trial:
    """The best of one split's trials by what they counted in training; of equals the one with the lowest number."""
    return max(trials, key=lambda trial: (_score(trial.train, tuning, base), -trial.candidate.number))


def tuned(trials: Iterable[Trial], some: Sequence[Split], tuning: Tuning, base: DetectorSettings) -> Tuned:
    """What the trials of all tasks say together, in whatever order they came."""
    ordered = sorted(trials, key=lambda trial: (trial.split, trial.candidate.number))
    made = []
    for split in some:
        here = [trial for trial in ordered if trial.split == split.number]
        frozen = next((trial for trial in here if trial.candidate.number == FROZEN), None)
        if frozen is None:
            raise ConfigurationError(
                f"split {split.number}: the settings in use are not among its {len(here)} trials",
                remedy="Evaluate every candidate, number 0 too.",
            )
        made.append(Chosen(split, choose(here, tuning, base), frozen))
    return Tuned(tuning, base, tuple(made), tuple(ordered))


def walk_forward(bars: Bars, base: DetectorSettings, tuning: Tuning) -> Tuned:
    """All of it in one process."""
    bench = Workbench.of(bars, base, tuning)
    trials = [trial for each in candidates(tuning, base) for trial in bench.evaluate(each)]
    return tuned(trials, bench.splits, tuning, base)


def sharpe(series: Sequence[float]) -> float | None:
    """Mean over deviation (n - 1), not annualised; None of less than two values or of equal ones."""
    values = np.asarray(series, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    return float(values.mean() / values.std(ddof=1))


def expected_best_sharpe(ratios: Sequence[float]) -> float:
    """The Sharpe ratio to be expected of the best of so many trials when none has any skill; 0 for one trial."""
    if len(ratios) < 2:
        return 0.0
    normal, n = NormalDist(), len(ratios)
    spread = float(np.std(ratios, ddof=1))
    return spread * ((1 - EULER_GAMMA) * normal.inv_cdf(1 - 1 / n) + EULER_GAMMA * normal.inv_cdf(1 - 1 / (n * e)))


def probabilistic_sharpe(series: Sequence[float], benchmark: float) -> float | None:
    """The probability that the true Sharpe ratio of ``series`` exceeds ``benchmark``, given its length, skew and tails."""
    found = sharpe(series)
    if found is None:
        return None
    values = np.asarray(series, dtype=np.float64)
    z = (values - values.mean()) / values.std()
    skew, kurtosis = float((z**3).mean()), float((z**4).mean())
    spread = 1 - skew * found + (kurtosis - 1) / 4 * found * found
    if spread <= 0:
        return None
    return NormalDist().cdf((found - benchmark) * sqrt(len(values) - 1) / sqrt(spread))


def deflated_sharpe(series: Sequence[float], ratios: Sequence[float]) -> float | None:
    """The probability that the best trial's true Sharpe ratio exceeds what luck gives the best of ``ratios``, all trials'."""
    return probabilistic_sharpe(series, expected_best_sharpe(ratios))


def _day(count: SessionCount, nets: Sequence[float]) -> Day:
    return Day(
        captured=count.captured,
        opportunities=count.opportunities,
        false=count.false,
        alerts=count.alerts,
        trades=len(nets),
        wins=sum(net > 0 for net in nets),
        net=sum(nets),
    )


def _score(tally: Tally, tuning: Tuning, base: DetectorSettings) -> float:
    found = tally.score(tuning.objective, base)
    return float("-inf") if found is None else found


def _only(truth: Truth, sessions: Sequence[int]) -> Truth:
    """The truth of some of its sessions."""
    wanted = set(sessions)
    return Truth(
        tuple(each for each in truth.opportunities if each.session in wanted),
        tuple(each for each in truth.zones if each.session in wanted),
        tuple(session for session in truth.sessions if session in wanted),
    )


def _added(parts: Iterable[Tally]) -> Tally:
    return Tally(tuple(day for part in parts for day in part.days))


def _ratio(of: float, n: float) -> float | None:
    return of / n if n else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _words(tally: Tally, objective: Objective) -> str:
    """The measures of an objective, as a reader wants them."""

    def percent(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.1%}"

    if objective == "detection":
        return f"capture {percent(tally.capture)} and false positives {percent(tally.false_positives)}"
    net = "unknown" if tally.net_points is None else f"{tally.net_points:+.1f} points a trade net"
    return f"wins {percent(tally.win)} and {net}"
