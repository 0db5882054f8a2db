"""What a trade on each alert would have brought: a bracket order with costs, filled as a careful broker would.

Entry at the open of the next bar, one tick worse. The target is a limit that fills only when the price trades through it by a
tick; the stop pays a tick more, and where the bar opens beyond it fills at that open. A bar that touches both is a stop. A trade
ends after 60 minutes or with its session; none begins in the last 35 minutes. A **win** is a net profit above 0.

Each alert is one trade of one contract, whatever else is open: this is the study of an event, not of an account.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from comporta.detector.alert import Alert
from comporta.detector.bars import Bars, Floats
from comporta.detector.settings import DetectorSettings

Outcome = Literal["target", "stop", "time", "session_end"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
TARGET, STOP, TIME, SESSION_END = range(4)
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade. Times are epoch seconds UTC, prices points; ``net_points`` and ``net_brl`` have the fees taken off.

    ``entry_index`` and ``exit_index`` are places in the bars that were traded on; ``risk`` is the distance of the stop, points.
    """

    kind: str
    direction: int
    session: int
    minute: int
    alert_time: int
    entry_index: int
    entry_time: int
    entry: float
    risk: float
    stop: float
    target: float
    reward_risk: float
    exit_index: int
    exit_time: int
    exit: float
    outcome: Outcome
    gross_points: float
    net_points: float
    net_brl: float

    @property
    def win(self) -> bool:
        """Whether anything was left after costs."""
        return self.net_points > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Fills:
    """Outcomes of many trades, one array a column; ``outcome`` numbers ``OUTCOMES``, ``gross`` is points before fees.

    ``risk`` and ``reward`` are the distances of stop and target from the entry, as they were sent: whole ticks.
    """

    entry: Floats
    risk: Floats
    reward: Floats
    exit_index: Numbers
    exit: Floats
    outcome: Numbers
    gross: Floats


class Market:
    """Bars inside the session's hours, prepared for orders: which bar follows an instant, what becomes of a bracket order.

    ``position`` gives each of these ``bars`` its place in the whole.
    """

    def __init__(self, bars: Bars, settings: DetectorSettings) -> None:
        market = settings.market
        self.position = np.flatnonzero((bars.minute >= 0) & (bars.minute < market.session_min))
        self.bars = bars[self.position]
        self.settings = settings
        self.fees_points = market.fees_round_trip / market.point_value
        self._last_of_session = np.searchsorted(self.bars.session, self.bars.session, side="right") - 1

    def entry_index(self, times: Numbers, sessions: NDArray[np.int32]) -> Numbers:
        """The bar whose open fills an order sent at each of ``times``, -1 where the day takes no more entries."""
        bars, rule = self.bars, self.settings.trade
        if not len(bars):
            return np.full(len(times), -1, dtype=np.int64)
        found = np.searchsorted(bars.open_time, times, side="left")
        safe = np.minimum(found, len(bars) - 1)
        latest = self.settings.market.session_min - rule.no_entry_last_min
        allowed = (found < len(bars)) & (bars.session[safe] == sessions) & (bars.minute[safe] < latest)
        return np.where(allowed, safe, -1)

    def fill(self, entry_index: Numbers, direction: NDArray[np.int64], risk: Floats, reward_risk: Floats) -> Fills:
        """What becomes of bracket orders entered at those bars' opens; all arrays are of one length.

        ``risk`` is the distance of the stop in points, rounded to ticks and never less than ``stop_min_ticks``; the target lies
        ``reward_risk`` times as far, rounded likewise.
        """
        rule, tick, bars = self.settings.trade, self.settings.market.tick, self.bars
        long = direction > 0
        risk = np.maximum(np.floor(risk / tick + 0.5), rule.stop_min_ticks) * tick
        reward = np.floor(reward_risk * risk / tick + 0.5) * tick

        def towards(up: Floats, down: Floats, at: Numbers, of: NDArray[np.bool_]) -> Floats:
            """Prices as the holder of a long trade sees them: a short one's are mirrored."""
            return np.asarray(np.where(of, up[at], -down[at]))

        last_of_session = self._last_of_session[entry_index]
        timed = np.searchsorted(bars.open_time, bars.open_time[entry_index] + 60 * rule.time_exit_min, side="left") - 1
        last = np.minimum(timed, last_of_session)
        entry = towards(bars.open, bars.open, entry_index, long) + rule.entry_slip_ticks * tick
        stop, target = entry - risk, entry + reward
        through, slip = target + rule.target_through_ticks * tick, rule.stop_slip_ticks * tick
        exit_index = last.copy()
        exit_price = towards(bars.close, bars.close, last, long)
        outcome = np.where(last_of_session > timed, TIME, SESSION_END)
        live = np.arange(len(entry_index))
        step = 0
        while len(live):
            at, of = entry_index[live] + step, long[live]
            opened = towards(bars.open, bars.open, at, of)
            stopped = towards(bars.low, bars.high, at, of) <= stop[live]
            reached = ~stopped & (towards(bars.high, bars.low, at, of) >= through[live])
            out = live[stopped]
            exit_price[out] = np.minimum(stop[out] - slip, opened[stopped])
            outcome[out] = STOP
            won = live[reached]
            exit_price[won] = target[won]
            outcome[won] = TARGET
            done = stopped | reached
            exit_index[live[done]] = at[done]
            live = live[~done & (at < last[live])]
            step += 1
        sign = np.where(long, 1.0, -1.0)
        return Fills(sign * entry, risk, reward, exit_index, sign * exit_price, outcome, exit_price - entry)


def trades_of(
    bars: Bars,
    alerts: Iterable[Alert],
    settings: DetectorSettings,
    *,
    reward_risk: float | None = None,
    sessions: Iterable[int] | None = None,
    delay_bars: int = 0,
) -> tuple[Trade, ...]:
    """The trades of ``alerts`` on ``bars`` (the finest there are), those of ``sessions`` only when given.

    The stop's distance and the reward:risk are the alert's own, unless ``reward_risk`` asks another. The order is sent
    ``delay_bars`` bars of the detector's period after the alert.
    """
    market = Market(bars, settings)
    wanted = None if sessions is None else set(sessions)
    asked = [alert for alert in alerts if wanted is None or alert.session in wanted]
    delay_s = 60 * settings.market.period_min * delay_bars
    at = market.entry_index(
        np.array([alert.time + delay_s for alert in asked], dtype=np.int64),
        np.array([alert.session for alert in asked], dtype=np.int32),
    )
    taken = [alert for alert, index in zip(asked, at.tolist(), strict=True) if index >= 0]
    at = at[at >= 0]
    fills = market.fill(
        at,
        np.array([alert.direction for alert in taken], dtype=np.int64),
        np.array([abs(alert.entry - alert.stop) for alert in taken], dtype=np.float64),
        np.array([alert.reward_risk if reward_risk is None else reward_risk for alert in taken], dtype=np.float64),
    )
    return tuple(_trade(market, fills, row, alert, int(at[row])) for row, alert in enumerate(taken))


def _trade(market: Market, fills: Fills, row: int, alert: Alert, index: int) -> Trade:
    bars = market.bars
    entry, gross = float(fills.entry[row]), float(fills.gross[row])
    risk, reward, out = float(fills.risk[row]), float(fills.reward[row]), int(fills.exit_index[row])
    net = gross - market.fees_points
    return Trade(
        kind=alert.kind,
        direction=alert.direction,
        session=alert.session,
        minute=int(bars.minute[index]),
        alert_time=alert.time,
        entry_index=int(market.position[index]),
        entry_time=int(bars.open_time[index]),
        entry=entry,
        risk=risk,
        stop=entry - alert.direction * risk,
        target=entry + alert.direction * reward,
        reward_risk=reward / risk,
        exit_index=int(market.position[out]),
        exit_time=int(bars.close_time[out]),
        exit=float(fills.exit[row]),
        outcome=OUTCOMES[int(fills.outcome[row])],
        gross_points=gross,
        net_points=net,
        net_brl=net * market.settings.market.point_value,
    )
