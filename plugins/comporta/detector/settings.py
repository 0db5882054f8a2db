"""Every number of the detector and of its judges, frozen: a result is bound to the ``digest`` of these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Self, get_type_hints

from comporta.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class MarketSettings:
    """The contract and its day. Prices are points; ``point_value`` and ``fees_round_trip`` are R$ for one contract."""

    tick: float = 5.0
    point_value: float = 0.20
    fees_round_trip: float = 0.55
    tz: str = "America/Sao_Paulo"
    session_start: str = "09:00"
    session_end: str = "17:55"
    period_min: int = 5
    min_session_share: float = 0.85

    @property
    def session_min(self) -> int:
        """The minutes of a whole session."""
        return _clock(self.session_end) - _clock(self.session_start)


@dataclass(frozen=True, slots=True)
class RangeSettings:
    """The session-seasonal range detector: R / (E x level^exponent) > threshold, again after it fell below hysteresis x threshold.

    R is the range of the last ``window_min``; E its median at this time of day (+-``slot_half_width_min``) over the last
    ``baseline_sessions`` sessions; level the median session range of ``level_short`` over that of ``level_long`` sessions.
    """

    enabled: bool = True
    window_min: int = 30
    first_min: int = 10
    baseline_sessions: int = 20
    slot_half_width_min: int = 5
    level_exponent: float = 0.25
    level_short: int = 5
    level_long: int = 20
    threshold: float = 1.9
    hysteresis: float = 0.9


@dataclass(frozen=True, slots=True)
class ZScoreSettings:
    """The two-sided z-score of closes: so many standard deviations from the mean of the window, so many bars in a row."""

    enabled: bool = True
    window: int = 20
    threshold: float = 2.0
    bars: int = 2


@dataclass(frozen=True, slots=True)
class PatternSettings:
    """Engulfing bodies, RSI divergence between confirmed pivots, and the break of the last bars' extreme. Counts are bars."""

    engulfing: bool = True
    engulfing_body_ratio: float = 1.0
    rsi_divergence: bool = True
    rsi_period: int = 14
    rsi_overbought: float = 70.0
    rsi_oversold: float = 30.0
    pivot_bars: int = 2
    pivot_max_apart: int = 30
    breakout: bool = True
    breakout_bars: int = 20
    atr_period: int = 14


@dataclass(frozen=True, slots=True)
class TradeSettings:
    """The trade that an alert stands for. Stop = max(``stop_min_ticks``, ``stop_factor`` x expected 30-minute range)."""

    entry_slip_ticks: int = 1
    stop_slip_ticks: int = 1
    target_through_ticks: int = 1
    stop_min_ticks: int = 4
    stop_factor: float = 0.5
    reward_risk: float = 2.5
    time_exit_min: int = 60
    no_entry_last_min: int = 35


@dataclass(frozen=True, slots=True)
class TruthSettings:
    """What the evaluator, with hindsight, calls an opportunity; the detector never sees any of it. See the docs of ``truth``."""

    window_min: int = 30
    first_min: int = 10
    baseline_sessions_each_side: int = 20
    slot_half_width_min: int = 5
    opportunity_q: float = 2.2
    zone_q: float = 1.7
    exit_share: float = 0.7
    exit_min: int = 15
    warmup_sessions: int = 21
    capture_before_min: int = 30
    capture_after_min: int = 10
    zone_before_min: int = 10


@dataclass(frozen=True, slots=True)
class GateSettings:
    """The three gates, and how much must have been seen before a gate says anything but INSUFFICIENT."""

    capture_min: float = 0.85
    false_positives_max: float = 0.10
    wins_min: float = 0.60
    opportunities_at_least: int = 40
    alerts_at_least: int = 60
    trades_at_least: int = 60
    confidence: float = 0.95
    null_draws: int = 200
    null_p_max: float = 0.05
    bootstrap_draws: int = 1000


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """All parameters of the detector and its backtest; ``config/detector.yaml`` holds the same names."""

    market: MarketSettings = field(default_factory=MarketSettings)
    range: RangeSettings = field(default_factory=RangeSettings)
    zscore: ZScoreSettings = field(default_factory=ZScoreSettings)
    patterns: PatternSettings = field(default_factory=PatternSettings)
    trade: TradeSettings = field(default_factory=TradeSettings)
    truth: TruthSettings = field(default_factory=TruthSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    seed: int = 7

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """The settings of a parsed file: what is not named keeps its default, an unknown name or a wrong type is refused."""
        made: Self = _read(cls, mapping, at="")
        return made

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as ``from_mapping`` reads them."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """SHA-256 of every value; equal for equal settings, whatever file they came from."""
        import hashlib  # not needed by a process that only watches the market

        return hashlib.sha256(json.dumps(self.to_mapping(), sort_keys=True).encode()).hexdigest()


def _read(kind: Any, mapping: Any, *, at: str) -> Any:
    """The dataclass ``kind`` from a mapping; ``at`` is its dotted place in the file."""
    place = at or "the detector's settings"
    if not isinstance(mapping, Mapping):
        raise ConfigurationError(
            f"{place}: expected a mapping, found {mapping!r}", remedy="Write name: value, one a line."
        )
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind)]
    unknown = sorted(str(name) for name in mapping if name not in known)
    if unknown:
        raise ConfigurationError(
            f"{place}: unknown {', '.join(unknown)}", remedy=f"Known here are: {', '.join(known)}."
        )
    values = {name: _value(hints[name], value, at=f"{at}.{name}" if at else name) for name, value in mapping.items()}
    return kind(**values)


def _value(kind: Any, value: Any, *, at: str) -> Any:
    """One value of the type ``kind``; a whole number is taken where a number is expected, nothing else is bent."""
    if is_dataclass(kind):
        return _read(kind, value, at=at)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigurationError(
            f"{at}: expected {kind.__name__}, found {value!r}", remedy=f"Write a {kind.__name__} there."
        )
    return value


def _clock(text: str) -> int:
    """Minutes after midnight of HH:MM."""
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)
