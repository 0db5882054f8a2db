"""Search a rule whose trades win more than their null and earn after costs, by walk-forward over real bars; count every trial.

A rule is a signal, traded with or against, a filter, and an exit (stop, reward:risk, time). Each fold is a block of sessions;
a rule is chosen on all sessions before it, one session dropped between, and traded on it. Only tests count. The order is that of
the calendar, the sets of bars one after the other; indicators never cross from one to the next.

Usage: ``python bench/win_rules.py FOLDER`` with the parquet files of ``SETS`` in it; ``python bench/win_rules.py confirm FILE...``
holds the two rules that were left against other bars. Prints JSON. Nothing of the bars is kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from comporta.detector.bars import Bars, Floats
from comporta.detector.calendar import market_calendar
from comporta.detector.gates import wins_of
from comporta.detector.grid import Grid
from comporta.detector.nulls import NullDraws, null_draws, null_of
from comporta.detector.processor import processador_bdi
from comporta.detector.settings import DetectorSettings
from comporta.detector.sources.files import read_bars
from comporta.detector.trades import OUTCOMES, Market, Trade
from comporta.detector.tuning import expected_best_sharpe, probabilistic_sharpe, sharpe

SETS = ("WINN_M1_2015", "WIN_M5_2021_22", "WIN_M5_2025H1", "WIN_M1_2025")
SETTINGS = DetectorSettings()
DAY = ("gap", "yesterday", "vwap", "late")
SIGNALS = (
    "volatility_zscore", "breakout", "volatility_range", "engulfing", "rsi_divergence", "opening_range", "first_hour", *DAY,
)  # fmt: skip
FILTERS = ("all", "with the day", "against the day", "morning", "afternoon")
STOPS, RATIOS = (0.5, 1.0, 2.0), (0.5, 1.0, 2.5)
TIMES = (60, 180, 540)
FOLD, PURGE, TRADES_AT_LEAST = 40, 1, 60
DRAWS = 1000
NOON_MIN, OPENING_MIN, FIRST_HOUR_MIN = 180, 30, 60


class Exit(NamedTuple):
    """``stop`` in expected 30-minute ranges, ``minutes`` at most."""

    stop: float
    reward_risk: float
    minutes: int


class Rule(NamedTuple):
    """One trial. ``side`` +1 trades with the signal, -1 against it."""

    signal: str
    side: int
    filter: str
    exit: Exit


@dataclass(frozen=True, eq=False)
class Entries:
    """Where the signals of one set of bars would enter: one row a signal; masks of ``FILTERS`` in columns."""

    bars: Bars
    sessions: tuple[int, ...]
    signal: NDArray[np.int64]
    direction: NDArray[np.int64]
    at: NDArray[np.int64]
    session: NDArray[np.int64]
    time: NDArray[np.int64]
    expected: Floats
    filters: NDArray[np.bool_]
    moves: Floats
    """Of each entry: the day's move, the last half hour's, the distance to the day's mean price (expected ranges), the minute."""


EXITS = tuple(Exit(*each) for each in product(STOPS, RATIOS, TIMES))
RULES = tuple(Rule(*each) for each in product(SIGNALS, (1, -1), FILTERS, EXITS))


# What the search left standing, to be held against bars that it has not seen. Written down before any were.
LEFT = {
    "gap": Rule("gap", 1, "with the day", Exit(2.0, 1.0, 180)),
    "vwap": Rule("vwap", 1, "all", Exit(1.0, 0.5, 60)),
}


def entries_of(bars: Bars) -> Entries:
    """All signals of the scored sessions that can be traded, told from closed bars only."""
    settings = SETTINGS
    made = bars.resampled(settings.market.period_min)
    grid = Grid.of(made, settings.market)
    rule = settings.range
    table = grid.expected(
        window_min=rule.window_min,
        first_min=rule.first_min,
        sessions=rule.baseline_sessions,
        half_width_min=rule.slot_half_width_min,
    )
    full = rule.window_min // made.period_min - 1
    table[:, :full] = table[:, full : full + 1]  # a whole window is expected from the start
    expected = np.full(len(made), np.nan)
    there = grid.index >= 0
    expected[grid.index[there]] = table[there]
    scored = grid.session[settings.truth.warmup_sessions :]
    found = [(SIGNALS.index(each.kind), each.index, each.direction) for each in processador_bdi(made, settings)]
    found += [*_opening(made), *_day(made)]
    number, index, direction = (np.array(column, dtype=np.int64) for column in zip(*sorted(found), strict=True))
    begin = np.flatnonzero(np.r_[True, np.diff(made.session) != 0])
    opened = made.open[begin][np.searchsorted(begin, index, side="right") - 1]
    with_day = np.sign(made.close[index] - opened) == direction
    morning = made.minute[index] < NOON_MIN
    filters = np.stack([np.ones(len(index), bool), with_day, ~with_day, morning, ~morning], axis=1)
    half_hour = made.close[np.maximum(index - full - 1, begin[np.searchsorted(begin, index, side="right") - 1])]
    off_mean = made.close[index] - _mean_prices(made)[index]
    moves = np.stack([made.close[index] - opened, made.close[index] - half_hour, off_mean], axis=1)
    moves = np.c_[moves / expected[index][:, None], made.minute[index] / settings.market.session_min]
    market = Market(bars, settings)
    at = market.entry_index(made.close_time[index], made.session[index])
    good = (at >= 0) & np.isin(made.session[index], scored) & np.isfinite(expected[index])
    return Entries(
        bars=bars,
        sessions=tuple(int(session) for session in scored),
        signal=number[good],
        direction=direction[good],
        at=at[good],
        session=made.session[index][good].astype(np.int64),
        time=made.close_time[index][good],
        expected=expected[index][good],
        filters=filters[good],
        moves=moves[good],
    )


def _mean_prices(bars: Bars) -> Floats:
    """The day's mean price by volume, up to each bar."""
    volume = np.maximum(bars.volume, 1.0)
    first = np.searchsorted(bars.session, bars.session)
    worth, traded = (np.r_[0.0, np.cumsum(each)] for each in ((bars.high + bars.low + bars.close) / 3 * volume, volume))
    return (worth[1:] - worth[first]) / (traded[1:] - traded[first])


def _opening(bars: Bars) -> Iterator[tuple[int, int, int]]:
    """First close beyond the range of the first 30 minutes, once a side; and the side of the first hour, where it was large."""
    opening, hour = SIGNALS.index("opening_range"), SIGNALS.index("first_hour")
    begin = np.flatnonzero(np.r_[True, np.diff(bars.session) != 0, True])
    for first, end in zip(begin[:-1].tolist(), begin[1:].tolist(), strict=True):
        minute = bars.minute[first:end]
        early = np.flatnonzero((minute >= 0) & (minute < OPENING_MIN)) + first
        if not len(early):
            continue
        top, bottom = bars.high[early].max(), bars.low[early].min()
        later = np.arange(early[-1] + 1, end)
        for side, beyond in ((1, bars.close[later] > top), (-1, bars.close[later] < bottom)):
            if beyond.any():
                yield opening, int(later[np.argmax(beyond)]), side
        at = np.flatnonzero(minute < FIRST_HOUR_MIN)
        if len(at):
            last = int(at[-1]) + first
            move = bars.close[last] - bars.open[first]
            if abs(move) > (bars.high[first : last + 1].max() - bars.low[first : last + 1].min()) / 2:
                yield hour, last, int(np.sign(move))


def _day(bars: Bars) -> Iterator[tuple[int, int, int]]:
    """Signals of the day as a whole, each once a day and side.

    The gap from yesterday's close at the first bar's close; the first close beyond yesterday's range; a close off the day's mean
    price by volume by more than half the day's range so far, after an hour; and at the last entry, the side of the day's move.
    A day on which the contract rolled, and the one after it, have no yesterday.
    """
    gap, yesterday, vwap, late = (SIGNALS.index(name) for name in DAY)
    begin = np.flatnonzero(np.r_[True, np.diff(bars.session) != 0, True])
    days = [date.fromisoformat(day) for day in bars.sessions]
    rolls = set(market_calendar(days[0], days[-1]).roll_days())
    means = _mean_prices(bars)
    before: tuple[float, float, float] | None = None
    for first, end in zip(begin[:-1].tolist(), begin[1:].tolist(), strict=True):
        high, low, close = bars.high[first:end], bars.low[first:end], bars.close[first:end]
        number = int(bars.session[first])
        if rolls & set(days[max(0, number - 1) : number + 1]):
            before = None
        if before is not None:
            if bars.open[first] != before[2]:
                yield gap, first, int(np.sign(bars.open[first] - before[2]))
            for side, beyond in ((1, close > before[0]), (-1, close < before[1])):
                if beyond.any():
                    yield yesterday, first + int(np.argmax(beyond)), side
        mean = means[first:end]
        spread = np.maximum.accumulate(high) - np.minimum.accumulate(low)
        hour = bars.minute[first:end] >= FIRST_HOUR_MIN
        for side in (1, -1):
            far = hour & (side * (close - mean) > spread / 2)
            if far.any():
                yield vwap, first + int(np.argmax(far)), side
        at = np.flatnonzero(bars.minute[first:end] < SETTINGS.market.session_min - SETTINGS.trade.no_entry_last_min - 5)
        if len(at) and close[at[-1]] != bars.open[first]:
            yield late, first + int(at[-1]), int(np.sign(close[at[-1]] - bars.open[first]))
        before = float(high.max()), float(low.min()), float(close[-1])


@dataclass(frozen=True, eq=False)
class Results:
    """By exit and side, what every entry of one set brought: net points and the fills."""

    entries: Entries
    net: dict[tuple[Exit, int], Floats]
    fills: dict[tuple[Exit, int], Any]

    @classmethod
    def of(cls, entries: Entries) -> Results:
        """Fill every entry under every exit, both ways."""
        net, fills = {}, {}
        for each, side in product(EXITS, (1, -1)):
            market = Market(entries.bars, settings_of(each))
            risk = each.stop * entries.expected
            ratio = np.full(len(risk), each.reward_risk)
            filled = market.fill(entries.at, entries.direction * side, risk, ratio)
            net[each, side], fills[each, side] = filled.gross - market.fees_points, filled
        return cls(entries, net, fills)

    def taken(self, rule: Rule) -> NDArray[np.bool_]:
        """Which entries are the rule's."""
        entries = self.entries
        return (entries.signal == SIGNALS.index(rule.signal)) & entries.filters[:, FILTERS.index(rule.filter)]

    def by_session(self, rule: Rule) -> tuple[Floats, Floats, Floats]:
        """Net points, trades and wins of every scored session. Points are in units of the expected range: sets differ in price."""
        taken, entries = self.taken(rule), self.entries
        row = np.searchsorted(entries.sessions, entries.session[taken])
        net, size = self.net[rule.exit, rule.side][taken], len(entries.sessions)
        return (
            np.bincount(row, weights=net / entries.expected[taken], minlength=size),
            np.bincount(row, minlength=size).astype(np.float64),
            np.bincount(row, weights=net > 0, minlength=size),
        )

    def trades(self, rule: Rule, sessions: Sequence[int]) -> list[Trade]:
        """The rule's trades of those sessions."""
        wanted = self.taken(rule) & np.isin(self.entries.session, sessions)
        return self.made(rule.exit, rule.side, wanted, rule.signal)

    def made(self, each: Exit, side: int, wanted: NDArray[np.bool_], kind: str) -> list[Trade]:
        """The trades of the wanted entries."""
        entries, market = self.entries, Market(self.entries.bars, settings_of(each))
        filled, net = self.fills[each, side], self.net[each, side]
        made = []
        for k in np.flatnonzero(wanted).tolist():
            at, out = int(entries.at[k]), int(filled.exit_index[k])
            direction = int(entries.direction[k]) * side
            risk, reward, entry = float(filled.risk[k]), float(filled.reward[k]), float(filled.entry[k])
            made.append(
                Trade(
                    kind=kind, direction=direction, session=int(entries.session[k]),
                    minute=int(market.bars.minute[at]), alert_time=int(entries.time[k]), entry_index=at,
                    entry_time=int(market.bars.open_time[at]), entry=entry, risk=risk, stop=entry - direction * risk,
                    target=entry + direction * reward, reward_risk=reward / risk, exit_index=out,
                    exit_time=int(market.bars.close_time[out]), exit=float(filled.exit[k]),
                    outcome=OUTCOMES[int(filled.outcome[k])], gross_points=float(filled.gross[k]),
                    net_points=float(net[k]), net_brl=float(net[k]) * SETTINGS.market.point_value,
                )
            )  # fmt: skip
        return made


def settings_of(each: Exit) -> DetectorSettings:
    """The settings whose trades last as long as the exit says."""
    return replace(SETTINGS, trade=replace(SETTINGS.trade, time_exit_min=each.minutes))


class Table(NamedTuple):
    """Rules by sessions of all sets in a row: net (expected ranges), trades, wins; and whose session each column is."""

    net: Floats
    trades: Floats
    wins: Floats
    owner: list[tuple[int, int]]


def table_of(results: Sequence[Results]) -> Table:
    """Every rule on every session."""
    parts = [[result.by_session(rule) for rule in RULES] for result in results]
    net, trades, wins = (
        np.concatenate([np.array([rule[n] for rule in part]) for part in parts], axis=1) for n in range(3)
    )
    owner = [(number, session) for number, result in enumerate(results) for session in result.entries.sessions]
    return Table(net, trades, wins, owner)


def scores(table: Table, end: int) -> Floats:
    """The Sharpe ratio of a session of every rule over the sessions before ``end``; -inf of too few trades."""
    net = table.net[:, :end]
    spread = net.std(axis=1, ddof=1)
    ratio = np.divide(net.mean(axis=1), spread, out=np.zeros(len(net)), where=spread > 0)
    return np.where(table.trades[:, :end].sum(axis=1) >= TRADES_AT_LEAST, ratio, -np.inf)


def best(table: Table, end: int, allowed: NDArray[np.bool_]) -> int:
    """The single best rule."""
    return int(np.argmax(np.where(allowed, scores(table, end), -np.inf)))


def best_family(table: Table, end: int, allowed: NDArray[np.bool_]) -> int:
    """The best exit of the signal, side and filter that is best over all its exits: less is left to luck."""
    found = np.where(allowed, scores(table, end), -np.inf)
    families = found.reshape(-1, len(EXITS))
    known = np.isfinite(families)
    mean = np.where(known.any(1), np.where(known, families, 0).sum(1) / np.maximum(known.sum(1), 1), -np.inf)
    family = int(np.argmax(mean))
    return family * len(EXITS) + int(np.argmax(families[family]))


CHOICES = {"the best rule": best, "the best family": best_family}


def walk_forward(results: Sequence[Results], table: Table, choice: Any, allowed: NDArray[np.bool_]) -> dict[str, Any]:
    """Choose before each fold, trade it, add up; the null is drawn per fold with the fold's exits."""
    folds, parts, draws, every = [], [], [], []
    size = len(table.owner)
    begin = 70
    while begin < size:
        end = min(begin + FOLD, size)
        number = choice(table, begin - PURGE, allowed)
        rule = RULES[number]
        here = slice(0, begin - PURGE)
        for owner in sorted({owner for owner, _ in table.owner[begin:end]}):
            sessions = [session for each, session in table.owner[begin:end] if each == owner]
            trades = results[owner].trades(rule, sessions)
            pool = results[owner].entries.sessions
            draws.append(null_draws(results[owner].entries.bars, trades, pool, settings_of(rule.exit)))
            parts.append((trades, sessions))
            every += trades
        traded = table.trades[number, begin:end].sum()
        folds.append(
            {
                "rule": [*rule[:3], *rule.exit],
                "in_sample_win": _rate(table.wins[number, here].sum(), table.trades[number, here].sum()),
                "in_sample_net": _rate(table.net[number, here].sum(), table.trades[number, here].sum()),
                "out_of_sample_win": _rate(table.wins[number, begin:end].sum(), traded),
                "out_of_sample_net": _rate(table.net[number, begin:end].sum(), traded),
                "trades": int(traded),
            }
        )
        begin = end
    null = null_of(NullDraws.added(draws), every, SETTINGS)
    wins = wins_of(parts, null, SETTINGS)
    return {"folds": folds, "rate": wins.rate.to_dict(), **wins.to_dict()}


def reality_check(table: Table, allowed: NDArray[np.bool_]) -> dict[str, Any]:
    """White's question: how often is the best t of all rules as high when none earns anything; sessions are drawn."""
    known = np.isfinite(scores(table, len(table.owner))) & allowed
    net, size = table.net[known], len(table.owner)
    mean, error = net.mean(axis=1), net.std(axis=1, ddof=1) / np.sqrt(size)
    drawn = np.random.default_rng(SETTINGS.seed).multinomial(size, np.full(size, 1 / size), size=DRAWS)
    best_of = ((net @ drawn.T / size - mean[:, None]) / error[:, None]).max(axis=0)
    ratio = mean / error
    order = np.argsort(-ratio)[:10]
    numbers = np.flatnonzero(known)[order]
    return {
        "rules": int(known.sum()),
        "t_that_luck_reaches_in_5_percent": round(float(np.quantile(best_of, 0.95)), 3),
        "best": [
            {
                "rule": [*RULES[number][:3], *RULES[number].exit],
                "t": round(float(t), 3),
                "p_of_all": round(float((1 + (best_of >= t).sum()) / (1 + DRAWS)), 4),
                "trades": int(table.trades[number].sum()),
                "win": _rate(table.wins[number].sum(), table.trades[number].sum()),
                "win_by_set": [
                    _rate(table.wins[number, of].sum(), table.trades[number, of].sum())
                    for of in (np.array([owner == k for owner, _ in table.owner]) for k in range(len(SETS)))
                ],
            }
            for number, t in zip(numbers.tolist(), ratio[order].tolist(), strict=True)
        ],
    }


class Pool(NamedTuple):
    """Every entry of every set, with and against: features by row, whether it won, and where it is from."""

    features: Floats
    won: NDArray[np.bool_]
    column: NDArray[np.int64]
    owner: NDArray[np.int64]
    row: NDArray[np.int64]
    side: NDArray[np.int64]


def pool_of(results: Sequence[Results], each: Exit) -> Pool:
    """What the model learns from: signal and side, the moves as the holder sees them, their squares, the minute."""
    parts, before = [], 0
    for owner, result in enumerate(results):
        entries = result.entries
        column = before + np.searchsorted(entries.sessions, entries.session)
        before += len(entries.sessions)
        for side in (1, -1):
            way = (entries.direction * side)[:, None]
            kind = np.eye(len(SIGNALS))[entries.signal]
            moves, minute = entries.moves[:, :3], entries.moves[:, 3:]
            features = np.c_[kind, kind * side, way, way * moves, moves**2, way * moves * minute, minute, minute**2]
            size = len(column)
            parts.append(
                (
                    features,
                    result.net[each, side] > 0,
                    column,
                    np.full(size, owner),
                    np.arange(size),
                    np.full(size, side),
                )
            )
    return Pool(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def logistic(features: Floats, won: NDArray[np.bool_], ridge: float = 100.0) -> Floats:
    """Weights of a logistic regression, the first that of 1, by Newton's steps."""
    x = np.c_[np.ones(len(features)), features]
    weights, penalty = np.zeros(x.shape[1]), ridge * np.eye(x.shape[1])
    penalty[0, 0] = 0.0
    for _ in range(8):
        p = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (won - p) - penalty @ weights
        weights = weights + np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, slope)
    return weights


def model_forward(results: Sequence[Results], owner: list[tuple[int, int]], each: Exit) -> dict[str, Any]:
    """Fold by fold: a model of the wins before it, and the trades of the tenth that it likes best, as the past would rank them."""
    pool, parts, draws, every = pool_of(results, each), [], [], []
    settings = settings_of(each)
    begin = 70
    while begin < len(owner):
        end = min(begin + FOLD, len(owner))
        past, now = pool.column < begin - PURGE, (pool.column >= begin) & (pool.column < end)
        mean, spread = pool.features[past].mean(0), pool.features[past].std(0) + 1e-9
        weights = logistic((pool.features[past] - mean) / spread, pool.won[past])
        said = weights[0] + (pool.features - mean) / spread @ weights[1:]
        chosen = now & (said > np.quantile(said[past], 0.9))
        for number in sorted({number for number, _ in owner[begin:end]}):
            result = results[number]
            sessions = [session for each_owner, session in owner[begin:end] if each_owner == number]
            trades = []
            for side in (1, -1):
                wanted = np.zeros(len(result.entries.at), dtype=bool)
                wanted[pool.row[chosen & (pool.owner == number) & (pool.side == side)]] = True
                trades += result.made(each, side, wanted, "model")
            # Several signals of one bar are one trade.
            trades = list({(trade.entry_index, trade.direction): trade for trade in trades}.values())
            draws.append(null_draws(result.entries.bars, trades, result.entries.sessions, settings))
            parts.append((trades, sessions))
            every += trades
        begin = end
    wins = wins_of(parts, null_of(NullDraws.added(draws), every, SETTINGS), SETTINGS)
    return {"rate": wins.rate.to_dict(), **wins.to_dict()}


def _rate(of: float, n: float) -> float | None:
    return round(float(of / n), 4) if n else None


def main(folder: Path) -> dict[str, Any]:
    """Everything, as plain values."""
    started = perf_counter()
    results = []
    for name in SETS:
        bars = read_bars(folder / f"{name}.parquet", tz=SETTINGS.market.tz, symbol="WIN", adjustment="none")
        results.append(Results.of(entries_of(bars)))
    table = table_of(results)
    everything = scores(table, len(table.owner))
    ratios = everything[np.isfinite(everything)].tolist()
    top = int(np.argmax(everything))
    every = np.ones(len(RULES), dtype=bool)
    ratio = np.array([rule.exit.reward_risk for rule in RULES])
    made: dict[str, Any] = {
        "rules": len(RULES),
        "sessions": len(table.owner),
        "whole_sample": {
            "best": [*RULES[top][:3], *RULES[top].exit],
            "sharpe": sharpe(table.net[top].tolist()),
            "luck_sharpe": expected_best_sharpe(ratios),
            "deflated_probability": probabilistic_sharpe(table.net[top].tolist(), expected_best_sharpe(ratios)),
            "win": _rate(table.wins[top].sum(), table.trades[top].sum()),
            "trades": int(table.trades[top].sum()),
        },
        "reality_check": reality_check(table, every),
        **{f"reality_check, reward:risk {each:g}": reality_check(table, ratio == each) for each in RATIOS},
        "walk_forward": {},
    }
    for name, choice in CHOICES.items():
        made["walk_forward"][f"{name}, any reward:risk"] = walk_forward(results, table, choice, every)
        for each in RATIOS:
            made["walk_forward"][f"{name}, reward:risk {each:g}"] = walk_forward(results, table, choice, ratio == each)
    for each in RATIOS:
        found = model_forward(results, table.owner, Exit(1.0, each, 60))
        made["walk_forward"][f"a model's best tenth, reward:risk {each:g}"] = {"folds": [], **found}
    made["seconds"] = round(perf_counter() - started, 1)
    return made


def confirm(files: Sequence[Path]) -> dict[str, Any]:
    """What the two rules that the search left standing do on bars that it has not seen, each file and all together."""
    results = [
        Results.of(entries_of(read_bars(file, tz=SETTINGS.market.tz, symbol="WIN", adjustment="none")))
        for file in files
    ]
    made: dict[str, Any] = {}
    for name, rule in LEFT.items():
        settings, traded = settings_of(rule.exit), []
        for result in results:
            sessions = result.entries.sessions
            trades = result.trades(rule, sessions)
            traded.append((trades, sessions, null_draws(result.entries.bars, trades, sessions, settings)))
        groups = {file.name: [part] for file, part in zip(files, traded, strict=True)} | {"all": traded}
        made[name] = {"rule": [*rule[:3], *rule.exit]}
        for group, parts in groups.items():
            every = [trade for trades, _, _ in parts for trade in trades]
            null = null_of(NullDraws.added([draws for _, _, draws in parts]), every, SETTINGS)
            wins = wins_of(
                [(trades, sessions) for trades, sessions, _ in parts], null, SETTINGS, reward_risk=rule.exit.reward_risk
            )
            made[name][group] = {**wins.rate.to_dict(), **wins.to_dict()}
    return made


if __name__ == "__main__":
    given = sys.argv[1:]
    found = confirm([Path(each) for each in given[1:]]) if given[0] == "confirm" else main(Path(given[0]))
    json.dump(found, sys.stdout, indent=1)
