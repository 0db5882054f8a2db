"""Markets and alerts made by hand, so that every score is known in advance: what the tests of the detector's judges share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np

from comporta.detector.alert import Alert, Direction
from comporta.detector.bars import Bars
from comporta.detector.settings import DetectorSettings

SETTINGS = DetectorSettings()
SESSION_MIN = SETTINGS.market.session_min
FIRST_OPEN = 1_704_196_800  # 2024-01-02 09:00 in Sao Paulo
BASE = 100_000.0


def settings_with(**sections: Any) -> DetectorSettings:
    return DetectorSettings.from_mapping(sections)


def bars_of(
    open_: Any, high: Any, low: Any, close: Any, *, period_min: int = 1, per_session: int = 0, first_minute: int = 0
) -> Bars:
    """Bars without a gap, ``per_session`` a day (all of a day when 0)."""
    count = len(close)
    a_day = per_session or SESSION_MIN // period_min
    session, place = np.divmod(np.arange(count), a_day)
    minute = first_minute + place * period_min
    days = [str(date(2024, 1, 2) + timedelta(days=day)) for day in range(-(-count // a_day))]
    return Bars(
        open_time=(FIRST_OPEN + 86_400 * session + 60 * minute).astype(np.int64),
        open=np.array(open_, dtype=np.float64),
        high=np.array(high, dtype=np.float64),
        low=np.array(low, dtype=np.float64),
        close=np.array(close, dtype=np.float64),
        volume=np.ones(count),
        session=session.astype(np.int32),
        minute=minute.astype(np.int32),
        period_min=period_min,
        tz="America/Sao_Paulo",
        symbol="SCRIPTED",
        adjustment="none",
        sessions=tuple(days),
    )


def still_market(sessions: int, bursts: Mapping[tuple[int, int], float], *, period_min: int = 1) -> Bars:
    """A market whose range is always 20 points, but 20 x q from the bar of each burst (session, minute): q on, 30 minutes long."""
    a_day = SESSION_MIN // period_min
    high = np.full((sessions, a_day), BASE + 10)
    for (session, minute), q in bursts.items():
        high[session, minute // period_min] = BASE - 10 + 20 * q
    flat = np.full(sessions * a_day, BASE)
    return bars_of(flat, high.ravel(), flat - 10, flat, period_min=period_min)


def random_walk(sessions: int, seed: int, *, period_min: int = 1, tick: float = 5.0) -> Bars:
    """One tick up or down a bar, by the toss of a coin: nothing can be earned, and no bar touches two prices unseen."""
    rng = np.random.default_rng(seed)
    close = BASE + tick * np.cumsum(rng.choice([-1, 1], size=sessions * (SESSION_MIN // period_min)))
    open_ = np.r_[BASE, close[:-1]]
    return bars_of(open_, np.maximum(open_, close), np.minimum(open_, close), close, period_min=period_min)


def bursting_walk(sessions: int, seed: int) -> Bars:
    """M5 bars whose steps are larger in the morning and in a burst of an hour each other day."""
    rng = np.random.default_rng(seed)
    a_day = SESSION_MIN // 5
    scale = np.tile(np.linspace(60, 30, a_day), (sessions, 1))
    for session in range(0, sessions, 2):
        begin = int(rng.integers(6, a_day - 12))
        scale[session, begin : begin + 12] *= 4
    close = BASE + np.cumsum(5 * np.round(rng.normal(0, scale).ravel() / 5))
    open_ = np.r_[BASE, close[:-1]]
    wick = 5 * np.round(np.abs(rng.normal(0, scale.ravel() / 2)) / 5)
    return bars_of(open_, np.maximum(open_, close) + wick, np.minimum(open_, close) - wick, close, period_min=5)


def alert_at(
    session: int,
    minute: int,
    direction: Direction = 1,
    *,
    risk: float = 20.0,
    reward_risk: float = 2.5,
    price: float = BASE,
) -> Alert:
    """An alert known ``minute`` minutes after the session's start."""
    return Alert(
        kind="volatility_range",
        direction=direction,
        time=FIRST_OPEN + 86_400 * session + 60 * minute,
        index=0,
        session=session,
        minute=minute - 5,
        price=price,
        entry=price,
        stop=price - direction * risk,
        target=price + direction * reward_risk * risk,
        reward_risk=reward_risk,
        confidence=0.5,
        reason="Scripted.",
    )


def every_session(sessions: Sequence[int], minutes: Sequence[int]) -> list[Alert]:
    return [alert_at(session, minute) for session in sessions for minute in minutes]
