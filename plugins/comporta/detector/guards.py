"""Guards against a backtest that knows the future. They run with every backtest; one that fails, fails the run.

- **Prefix invariance**: on data cut off anywhere, within a session and right at an alert's own bar, the detector must have said the
  same up to the cut. One bar of foresight is enough to be caught.
- **Fill leak**: on a bar that runs away and then stands still, an order sent at its close must win nothing; and on the real trades,
  an order sent one bar later must not be worth much less.
- **Warm-up**: started later, the detector must say the same once its declared warm-up has passed.
- **Session boundary**: with every session moved up or down as a whole, the detector must say the same: no window straddles a night.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from comporta.detector.alert import Alert
from comporta.detector.bars import Bars
from comporta.detector.processor import warmup_sessions
from comporta.detector.settings import DetectorSettings
from comporta.detector.trades import Trade, trades_of
from comporta.errors import ComportaError

Detect = Callable[[Bars], Sequence[Alert]]
Trader = Callable[..., Sequence[Trade]]

CUTS = 20
SESSIONS = 60
"""A leak lies in the code, not in the day: so many sessions in a row, drawn by the seed, show it in a part of the time."""
EXAMPLES = 3
DELAY_COSTS_AT_MOST = 0.15
"""How much of the win rate one bar of delay may cost. An honest fill loses a few hundredths, a leaking one some 0.4."""
BOUNDARY_SHARE_AT_MOST = 0.01
"""Moving prices may turn the last bit of a comparison; a window that straddles the night changes a third of the alerts."""


class GuardFailed(ComportaError):
    """The backtest may know the future, so its numbers are worth nothing: which guard, and what it saw."""


@dataclass(frozen=True, slots=True)
class GuardResult:
    """What one guard saw: ``checked`` trials of which ``violations`` went wrong; ``examples`` names the first of those."""

    name: str
    passed: bool
    checked: int
    violations: int
    detail: str
    examples: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "examples": list(self.examples)}


def run_guards(
    detect: Detect,
    bars: Bars,
    settings: DetectorSettings,
    *,
    warm_up_sessions: int | None = None,
    trader: Trader = trades_of,
    cuts: int = CUTS,
) -> tuple[GuardResult, ...]:
    """All guards on ``detect``, over ``SESSIONS`` sessions of ``bars`` or what there is."""
    numbers, firsts = np.unique(bars.session, return_index=True)
    begin = int(np.random.default_rng(settings.seed).integers(max(1, len(numbers) - SESSIONS + 1)))
    ends = [*firsts.tolist(), len(bars)]
    part = bars[ends[begin] : ends[min(begin + SESSIONS, len(numbers))]]
    alerts = tuple(detect(part))
    warm_up = warmup_sessions(settings) if warm_up_sessions is None else warm_up_sessions
    return (
        check_prefix_invariance(detect, part, settings, cuts=cuts, alerts=alerts),
        check_fill_leak(part, alerts, settings, trader=trader),
        check_warm_up(detect, part, settings, warm_up_sessions=warm_up, alerts=alerts),
        check_session_boundary(detect, part, settings, alerts=alerts),
    )


def require(results: Iterable[GuardResult]) -> None:
    """Raise ``GuardFailed`` unless every guard passed."""
    failed = [result for result in results if not result.passed]
    if failed:
        seen = "; ".join(f"{each.name}: {each.detail} {' '.join(each.examples)}".rstrip() for each in failed)
        raise GuardFailed(
            f"the backtest is not to be trusted: {seen}",
            remedy="Find what reads a bar before it has closed, or a window that straddles the night. No result was kept.",
        )


def check_prefix_invariance(
    detect: Detect,
    bars: Bars,
    settings: DetectorSettings,
    *,
    cuts: int = CUTS,
    alerts: Sequence[Alert] | None = None,
) -> GuardResult:
    """Cut ``bars`` at ``cuts`` random bars and right around the bars of random alerts, and ask ``detect`` again each time."""
    said = tuple(detect(bars)) if alerts is None else tuple(alerts)
    examples: list[str] = []
    wrong = 0
    places = _cuts(bars, said, cuts, settings.seed)
    for place in places:
        known = bars[:place]
        until = int(known.close_time[-1])
        before = [alert for alert in said if alert.time <= until]
        again = [alert for alert in detect(known) if alert.time <= until]
        if before != again:
            wrong += 1
            examples.append(_difference(f"cut behind bar {place - 1} of {len(bars)}", before, again))
    return GuardResult(
        "prefix invariance",
        wrong == 0,
        len(places),
        wrong,
        f"{wrong} of {len(places)} cuts changed what had been said before them.",
        tuple(examples[:EXAMPLES]),
    )


def check_fill_leak(
    bars: Bars, alerts: Sequence[Alert], settings: DetectorSettings, *, trader: Trader = trades_of
) -> GuardResult:
    """Let ``trader`` fill orders on a planted bar that only a clairvoyant could have traded, and the real ones a bar late."""
    examples = []
    canaries = 0
    for direction in (1, -1):
        planted, alert = _canary(settings, direction)
        for trade in trader(planted, [alert], settings):
            canaries += 1
            if trade.entry_time < alert.time or trade.net_points > 0:
                examples.append(
                    f"An order sent at the close of a bar that ran away won {trade.net_points:.0f} points of it."
                )
    honest = _win(trader(bars, alerts, settings, reward_risk=1.0))
    late = _win(trader(bars, alerts, settings, reward_risk=1.0, delay_bars=1))
    cost = 0.0 if honest is None or late is None else honest - late
    enough = len(alerts) >= settings.gates.trades_at_least
    if enough and cost > DELAY_COSTS_AT_MOST:
        examples.append(
            f"One bar of delay costs {cost:.0%} of wins at reward:risk 1, more than {DELAY_COSTS_AT_MOST:.0%}."
        )
    early = sum(trade.entry_time < trade.alert_time for trade in trader(bars, alerts, settings))
    if early:
        examples.append(f"{early} trades were entered before their alert was known.")
    if not canaries:
        examples.append("The canary was not traded at all.")
    return GuardResult(
        "fill leak",
        not examples,
        canaries + len(alerts),
        len(examples),
        f"The canary was filled honestly; one bar of delay costs {100 * cost:+.1f} points of percent of the wins at reward:risk 1."
        if not examples
        else "Orders were filled at prices that had passed.",
        tuple(examples[:EXAMPLES]),
    )


def check_warm_up(
    detect: Detect,
    bars: Bars,
    settings: DetectorSettings,
    *,
    warm_up_sessions: int,
    trials: int = 3,
    alerts: Sequence[Alert] | None = None,
) -> GuardResult:
    """Start ``detect`` some bars later: after ``warm_up_sessions`` more whole sessions it must say what the whole run said."""
    said = tuple(detect(bars)) if alerts is None else tuple(alerts)
    rng = np.random.default_rng(settings.seed)
    numbers, firsts, counts = np.unique(bars.session, return_index=True, return_counts=True)
    least = settings.market.min_session_share * settings.market.session_min / bars.period_min
    whole = np.cumsum(counts >= least)  # sessions, up to each one, that teach a detector anything
    examples: list[str] = []
    checked = wrong = 0
    # Starts are drawn from the sessions that leave two more after the warm-up.
    starts = 1 + np.flatnonzero(whole[1:] + warm_up_sessions + 2 <= whole[-1]) if len(whole) else np.empty(0, np.int64)
    for skipped in rng.permutation(starts)[:trials]:
        begin = int(firsts[skipped]) - int(rng.integers(1, max(2, counts[skipped - 1])))
        ready = int(numbers[np.searchsorted(whole, whole[skipped - 1] + warm_up_sessions) + 1])
        before = [_essence(alert) for alert in said if alert.session >= ready]
        again = [_essence(alert) for alert in detect(bars[begin:]) if alert.session >= ready]
        checked += 1
        if before != again:
            wrong += 1
            examples.append(_difference(f"started at bar {begin}", before, again))
    detail = (
        f"{wrong} of {checked} later starts changed what was said after {warm_up_sessions} sessions of warm-up."
        if checked
        else f"Not checked: {len(numbers)} sessions do not outlast {warm_up_sessions} of warm-up."
    )
    return GuardResult("warm-up", wrong == 0, checked, wrong, detail, tuple(examples[:EXAMPLES]))


def check_session_boundary(
    detect: Detect, bars: Bars, settings: DetectorSettings, *, alerts: Sequence[Alert] | None = None
) -> GuardResult:
    """Move each session as a whole by a random number of ticks: when and which way ``detect`` alerts must not change."""
    said = tuple(detect(bars)) if alerts is None else tuple(alerts)
    rng = np.random.default_rng(settings.seed)
    numbers, which = np.unique(bars.session, return_inverse=True)
    lowest = float(bars.low.min()) if len(bars) else 0.0
    reach = max(1, int(min(2000.0, lowest / 4) / settings.market.tick))
    move = (rng.integers(-reach, reach + 1, size=len(numbers)) * settings.market.tick)[which]
    moved = replace(bars, open=bars.open + move, high=bars.high + move, low=bars.low + move, close=bars.close + move)
    before = {(alert.kind, alert.time, alert.direction) for alert in said}
    after = {(alert.kind, alert.time, alert.direction) for alert in detect(moved)}
    changed = sorted(before ^ after)
    share = len(changed) / max(1, len(before | after))
    return GuardResult(
        "session boundary",
        share <= BOUNDARY_SHARE_AT_MOST,
        len(before | after),
        len(changed),
        f"{len(changed)} of {len(before | after)} alerts changed when sessions were moved as a whole.",
        tuple(f"{kind} at {time}." for kind, time, _ in changed[:EXAMPLES]),
    )


def _cuts(bars: Bars, alerts: Sequence[Alert], count: int, seed: int) -> list[int]:
    """How many bars are kept in each trial: random numbers, and for random alerts just their own bar, one less, one more."""
    rng = np.random.default_rng(seed)
    if len(bars) < 2:
        return []
    places = set(rng.integers(1, len(bars), size=count).tolist())
    if alerts:
        times = np.array([alert.time for alert in alerts], dtype=np.int64)
        for time in rng.choice(times, size=min(-(-count // 3), len(times)), replace=False).tolist():
            own = int(np.searchsorted(bars.close_time, time, side="right"))
            places |= {own - 1, own, own + 1}
    return sorted(place for place in places if 0 < place < len(bars))


def _essence(alert: Alert) -> tuple[str, int, int, float, float, float]:
    """What an alert says to a trader, whatever bars went before: prices to a hundredth of a point."""
    return (
        alert.kind,
        alert.time,
        alert.direction,
        round(alert.price, 2),
        round(alert.stop, 2),
        round(alert.target, 2),
    )


def _difference(where: str, before: Sequence[Any], again: Sequence[Any]) -> str:
    """The first thing that two accounts tell differently."""
    pairs = zip(before, again, strict=False)
    first = next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(before), len(again)))
    one = before[first] if first < len(before) else "nothing"
    other = again[first] if first < len(again) else "nothing"
    return f"{where}: the whole run says {one}, this one {other}."


def _canary(settings: DetectorSettings, direction: int) -> tuple[Bars, Alert]:
    """A market that stands still, runs away by 400 ticks within one bar, and stands still again; the alert is of that bar."""
    market = settings.market
    count, at, base, jump = 40, 20, 100_000.0, 400 * market.tick * direction
    opens = np.full(count, base)
    closes = np.full(count, base)
    opens[at + 1 :] += jump
    closes[at:] += jump
    start = 1_700_049_600  # 2023-11-15 12:00 UTC, any moment of a session would do
    bars = Bars(
        open_time=start + 60 * market.period_min * np.arange(count, dtype=np.int64),
        open=opens,
        high=np.maximum(opens, closes),
        low=np.minimum(opens, closes),
        close=closes,
        volume=np.ones(count),
        session=np.zeros(count, dtype=np.int32),
        minute=(market.period_min * np.arange(count)).astype(np.int32),
        period_min=market.period_min,
        tz=market.tz,
        symbol="canary",
        adjustment="none",
        sessions=("2023-11-15",),
    )
    bar = bars[at]
    risk = 20 * market.tick
    alert = Alert(
        kind="volatility_range",
        direction=1 if direction > 0 else -1,
        time=bar.close_time,
        index=at,
        session=0,
        minute=bar.minute,
        price=bar.close,
        entry=bar.close,
        stop=bar.close - direction * risk,
        target=bar.close + direction * risk,
        reward_risk=1.0,
        confidence=1.0,
        reason="Canary.",
    )
    return bars, alert


def _win(trades: Sequence[Trade]) -> float | None:
    return sum(trade.win for trade in trades) / len(trades) if trades else None
