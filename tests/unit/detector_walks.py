"""Bars for the detector's tests: random walks on the tick, and single sessions from hand-written closes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from comporta.detector.bars import Bar, Bars
from comporta.detector.settings import DetectorSettings

START = 1_735_819_200  # 2025-01-02 09:00 in Sao Paulo
DAY_S = 86_400


def walk(sessions: int, seed: int, *, period_min: int = 5, minutes: int = 535, gaps: float = 0.0) -> Bars:
    """A random walk whose volatility changes from session to session; a share ``gaps`` of its bars is missing."""
    random = np.random.default_rng(seed)
    bars = minutes // period_min
    size = sessions * bars
    scale = np.repeat(random.uniform(15, 60, sessions), bars)
    close = 120_000 + 5 * np.round(np.cumsum(random.normal(0, scale)) / 5)
    opened = np.r_[close[0], close[:-1]] + 5 * random.integers(-1, 2, size)
    high = np.maximum(opened, close) + 5 * random.integers(0, 6, size)
    low = np.minimum(opened, close) - 5 * random.integers(0, 6, size)
    day, slot = np.divmod(np.arange(size), bars)
    made = Bars.from_columns(
        START + day * DAY_S + slot * period_min * 60, opened, high, low, close, np.full(size, 10.0),
        period_min=period_min, tz="America/Sao_Paulo", symbol="WALK", adjustment="none",
    )  # fmt: skip
    return made[random.random(size) >= gaps] if gaps else made


def mirrored(bars: Bars) -> Bars:
    """The same market upside down."""
    top = 2 * bars.close[0]
    return replace(bars, open=top - bars.open, high=top - bars.low, low=top - bars.high, close=top - bars.close)


def session_of(closes: Sequence[float], *, session: int = 0, wick: float = 0.0) -> list[Bar]:
    """One session of five-minute bars: each opens at the close before it and reaches ``wick`` beyond its body."""
    made = []
    for slot, (opened, close) in enumerate(zip([closes[0], *closes[:-1]], closes, strict=True)):
        made.append(bar(slot, opened, max(opened, close) + wick, min(opened, close) - wick, close, session=session))
    return made


def bar(slot: int, opened: float, high: float, low: float, close: float, *, session: int = 0) -> Bar:
    """The five-minute bar of a slot."""
    return Bar(START + session * DAY_S + slot * 300, opened, high, low, close, 1.0, session, slot * 5, 5)


def only(*kinds: str, **changes: object) -> DetectorSettings:
    """Settings under which these detectors run and no other."""
    mapping: dict[str, dict[str, object]] = {
        "range": {"enabled": "range" in kinds},
        "zscore": {"enabled": "zscore" in kinds},
        "patterns": {name: name in kinds for name in ("engulfing", "rsi_divergence", "breakout")},
    }
    for name, value in changes.items():
        part, key = name.split("__")
        mapping.setdefault(part, {})[key] = value
    return DetectorSettings.from_mapping(mapping)
