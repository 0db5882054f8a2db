"""The candle loop: closed bars of any source go through both families of detectors, and alerts with a whole setup come out.

The same loop watches the market and runs the backtest. It needs the standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import floor, sqrt

from comporta.detector.alert import Alert, Kind, Signal
from comporta.detector.bars import BadBars, Bar, resample
from comporta.detector.indicators import UNKNOWN, Prices, atr, started
from comporta.detector.patterns import breakout, engulfing, rsi_divergence
from comporta.detector.settings import DetectorSettings
from comporta.detector.volatility import SeasonalRange, range_detector, zscore_detector

Hook = Callable[[Prices], Signal | None]
NOTHING: tuple[Alert, ...] = ()


def processador_bdi(
    source: Iterable[Bar],
    settings: DetectorSettings | None = None,
    *,
    on_alert: Callable[[Alert], object] | None = None,
) -> Iterator[Alert]:
    """Every alert of a source of closed bars, as the bars come; shorter bars are made into those of ``market.period_min``.

    ``on_alert`` is called before the alert is given on. A bar that has not closed when the source ends is never looked at.
    """
    settings = settings or DetectorSettings()
    step = Detector(settings).step
    for bar in resample(source, settings.market.period_min):
        for alert in step(bar):
            if on_alert is not None:
                on_alert(alert)
            yield alert


class Detector:
    """All detectors that the settings enable, fed bar by bar. Bars outside the session count, but nothing looks at them."""

    def __init__(self, settings: DetectorSettings) -> None:
        self.settings = settings
        self.index = -1  # of the last bar taken
        self.seasonal = SeasonalRange(settings.range, settings.market)
        self._session = -1
        self._hooks: tuple[Hook, ...] = ()
        self._atr = started(atr(settings.patterns.atr_period))
        self._last_atr = UNKNOWN
        self._last_time = -(1 << 62)
        self._session_min = settings.market.session_min
        self._windows_a_bar = sqrt(settings.range.window_min / settings.market.period_min)

    def step(self, bar: Bar) -> tuple[Alert, ...]:
        """The alerts known at the close of this bar, of ``market.period_min``; it must be later than every bar before it."""
        time, opened, high, low, close, _, session, minute, _ = bar
        if time <= self._last_time:
            raise BadBars(
                f"bars in order of time were expected, found one of {time} after one of {self._last_time} (epoch seconds)",
                remedy="Sort the bars by their open time and give each of them once.",
            )
        self._last_time = time
        self.index += 1
        if not 0 <= minute < self._session_min:
            return NOTHING
        if session != self._session:
            self._begin(session)
        self.seasonal.step(bar)
        prices = (opened, high, low, close)
        self._last_atr = self._atr(prices)
        alerts = NOTHING
        for hook in self._hooks:
            signal = hook(prices)
            if signal is not None and (alert := self._alert(bar, signal)) is not None:
                alerts = (*alerts, alert)
        return alerts

    def _begin(self, session: int) -> None:
        """Nothing but the seasonal baseline goes from one session to the next: all else is made anew."""
        self._session = session
        self._hooks = (*volatility(self.settings, self.seasonal), *patterns(self.settings))
        self._atr = started(atr(self.settings.patterns.atr_period))

    def _alert(self, bar: Bar, signal: Signal) -> Alert | None:
        """The alert with its setup; None while nothing says how far a market like this moves."""
        market, trade = self.settings.market, self.settings.trade
        expected = self.seasonal.expected_at(bar.minute // market.period_min)
        if expected <= 0.0:
            expected = self._last_atr * self._windows_a_bar
        if expected <= 0.0:
            return None
        stop, target = distances(
            expected, market.tick, trade.stop_factor, trade.stop_min_ticks * market.tick, trade.reward_risk
        )
        entry = bar.close + signal.direction * trade.entry_slip_ticks * market.tick
        return Alert(
            kind=signal.kind,
            direction=1 if signal.direction > 0 else -1,
            time=bar.close_time,
            index=self.index,
            session=bar.session,
            minute=bar.minute,
            price=bar.close,
            entry=entry,
            stop=entry - signal.direction * stop,
            target=entry + signal.direction * target,
            reward_risk=target / stop,
            confidence=1.0 - 0.5 / max(signal.strength, 1.0),
            reason=signal.reason,
        )


def distances(
    expected: float, tick: float, stop_factor: float, stop_min: float, reward_risk: float
) -> tuple[float, float]:
    """How far from the entry the stop and the target lie, in points on the grid of ticks."""
    stop = max(floor(stop_factor * expected / tick + 0.5) * tick, stop_min)
    return stop, floor(reward_risk * stop / tick + 0.5) * tick


def volatility(settings: DetectorSettings, seasonal: SeasonalRange) -> tuple[Hook, ...]:
    """The enabled detectors of the volatility family, for one session."""
    hooks: list[Hook] = []
    if settings.range.enabled:
        hooks.append(started(range_detector(seasonal, settings.range)))
    if settings.zscore.enabled:
        hooks.append(started(zscore_detector(settings.zscore)))
    return tuple(hooks)


def patterns(settings: DetectorSettings) -> tuple[Hook, ...]:
    """The enabled technical patterns, for one session."""
    each = settings.patterns
    every = ((each.engulfing, engulfing), (each.rsi_divergence, rsi_divergence), (each.breakout, breakout))
    return tuple(started(pattern(each)) for enabled, pattern in every if enabled)


def warmup_bars(settings: DetectorSettings) -> Mapping[Kind, int]:
    """How many bars of a session each detector must have seen before it can say anything."""
    market, patterns = settings.market, settings.patterns
    return {
        "volatility_range": settings.range.first_min // market.period_min + 1,
        "volatility_zscore": settings.zscore.window + settings.zscore.bars - 1,
        "engulfing": 2,
        "rsi_divergence": patterns.rsi_period + 2 + patterns.pivot_bars,
        "breakout": patterns.breakout_bars + 1,
    }


def warmup_sessions(settings: DetectorSettings) -> int:
    """How many whole sessions must have ended before every alert, and every setup, is what a longer past would give."""
    return max(settings.range.baseline_sessions, settings.range.level_short, settings.range.level_long)
