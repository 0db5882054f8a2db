"""What the detector says, and when: an alert is known at the close of the bar that caused it, never before."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["volatility_range", "volatility_zscore", "engulfing", "rsi_divergence", "breakout"]
Direction = Literal[1, -1]
KINDS: tuple[Kind, ...] = ("volatility_range", "volatility_zscore", "engulfing", "rsi_divergence", "breakout")


class Signal(NamedTuple):
    """What one detector saw at a bar. ``strength`` is the found value over its threshold, 1 and more; ``direction`` is +1 or -1."""

    kind: Kind
    direction: int
    strength: float
    reason: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert with its setup: a long one has its stop below and its target above the entry, a short one the reverse.

    ``time`` is the close of the bar, epoch seconds UTC; ``index`` counts the bars of the detector's period from 0. Prices are
    points. ``price`` is the close, ``entry`` what is expected one adverse slip later: the fill is the next bar's open.
    ``confidence`` = 1 - 1/(2 x strength), 0.5 at the threshold: how clear the signal is, no probability of winning.
    """

    kind: Kind
    direction: Direction
    time: int
    index: int
    session: int
    minute: int
    price: float
    entry: float
    stop: float
    target: float
    reward_risk: float
    confidence: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
