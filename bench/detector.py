"""How fast is the detector, beside what others use? The same work on the same bars, every engine in a fresh process, one run.

    python bench/detector.py [--bars 10000000] [--slow-bars 10000000] [--slowest-bars 20000] [--rounds 3]

pass     z-score of 20 closes, ATR 14, RSI 14, engulfing, alerts, and how the trade of each alert ends (stop, target, time), over
         a random walk on the tick. Ours on one thread and on two (the walk is then two sessions: threads share sessions), TA-Lib
         with numpy, polars and pandas: alerts and wins must be equal. vectorbt and backtesting.py hold one position at a time, so
         they do less, and backtesting.py gets fewer bars. What is not installed is skipped with a word.
sweep    1,000 settings over 60 sessions of one-minute bars; beside it a loop over TA-Lib with numpy, timed on some of them.
stream   one bar through the pure Python code, the cost of the timer taken off: the work of `pass` without its trades, and the
         whole detector (every pattern, the seasonal range, bars checked). Beside them the z-score alone, as a deque and numpy.
live     a fresh interpreter watches 60 sessions: peak memory, and alerts a minute at full speed.

Ten clients at once are the alert server's measurement, not this one's. Prints JSON. Wall time is the best of the rounds, CPU beside
it tells how busy the machine was.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))

Floats = NDArray[np.float64]
Engine = Callable[[argparse.Namespace], dict[str, Any]]
WINDOW, THRESHOLD, PERIOD, RATIO, TICK = 20, 2.0, 14, 4.0, 5.0
STOP_FACTOR, REWARD_RISK, MOST_BARS, FEES = 0.5, 2.5, 12, 0.55 / 0.20
COLUMNS = ("open", "high", "low", "close")


def main() -> None:
    """Run one engine, or every engine in a process of its own, and print."""
    options = _options()
    if options.engine:
        json.dump(ENGINES[options.engine](options), sys.stdout)
        return
    with tempfile.TemporaryDirectory(prefix="comporta-bench-") as folder:
        options.folder = Path(folder)
        for bars in sorted({options.bars, options.slow_bars, options.slowest_bars}):
            np.save(options.folder / f"{bars}.npy", walk(bars))
        found = {name: _in_fresh_process(name, options) for name in ENGINES}
    ours = found["ours, 1 thread"].get("mbars_per_s")
    for each in found.values():
        if ours and each.get("mbars_per_s"):
            each["ours_is_times_faster"] = round(ours / each["mbars_per_s"], 1)
    compared = [found[name] for name in ("ours, 1 thread", "ta-lib", "polars", "pandas") if "alerts" in found[name]]
    equal = len({(each["alerts"], each["wins"]) for each in compared}) == 1
    json.dump({"engines": found, "alerts_and_wins_are_equal": equal}, sys.stdout, indent=1)


def walk(bars: int) -> Floats:
    """Open, high, low and close of a random walk on a tick of 5; each bar opens within a tick of the close before it."""
    random = np.random.default_rng(1)
    made = np.empty((4, bars))
    made[3] = 120_000 + TICK * np.round(np.cumsum(random.normal(0, 30, bars)) / TICK)
    made[0] = np.r_[made[3, 0], made[3, :-1]] + TICK * random.integers(-1, 2, bars)
    made[1] = np.maximum(made[0], made[3]) + TICK * random.integers(0, 6, bars)
    made[2] = np.minimum(made[0], made[3]) - TICK * random.integers(0, 6, bars)
    return made


def ours(threads: int) -> Engine:
    """The compiled pass."""

    def run(options: argparse.Namespace) -> dict[str, Any]:
        from comporta.detector.kernel import pass_columns

        columns, bars = _loaded(options, options.bars), options.bars
        minute = np.arange(0, 5 * bars, 5, dtype=np.int32)
        starts = np.linspace(0, bars, threads + 1).astype(np.int64)
        rule = _settings()

        def once() -> tuple[int, int]:
            passed = pass_columns(*columns, minute, starts, rule, threads=threads)
            return len(passed), passed.wins

        pass_columns(*(column[:1000] for column in columns), minute[:1000], np.array([0, 1000]), rule)  # compiles
        return _timed(once, bars, options)

    return run


def talib(options: argparse.Namespace) -> dict[str, Any]:
    """TA-Lib's indicators; alerts and trades in numpy."""
    import talib

    opened, high, low, close = _loaded(options, options.bars)

    def once() -> tuple[int, int]:
        x = close - close[0]
        total, squares = talib.SUM(x, WINDOW), talib.SUM(x * x, WINDOW)
        _rsi = talib.RSI(close, PERIOD)
        return _alerts_and_wins(opened, high, low, close, x, total, squares, talib.ATR(high, low, close, PERIOD))

    return _timed(once, options.bars, options)


def pandas(options: argparse.Namespace) -> dict[str, Any]:
    """Rolling sums and exponential means of pandas; alerts and trades in numpy."""
    import pandas as pd

    opened, high, low, close = _loaded(options, options.bars)

    def wilder(values: Floats) -> Floats:
        seeded = np.r_[values[1 : PERIOD + 1].mean(), values[PERIOD + 1 :]]
        return np.r_[np.full(PERIOD, np.nan), pd.Series(seeded).ewm(alpha=1 / PERIOD, adjust=False).mean().to_numpy()]

    def once() -> tuple[int, int]:
        x = close - close[0]
        rolling = pd.Series(x).rolling(WINDOW).sum().to_numpy()
        squares = pd.Series(x * x).rolling(WINDOW).sum().to_numpy()
        change, last = np.diff(close, prepend=close[0]), np.r_[close[0], close[:-1]]
        up, down = wilder(np.maximum(change, 0)), wilder(np.maximum(-change, 0))
        _rsi = 100 * up / (up + down)
        atr = wilder(np.maximum(high, last) - np.minimum(low, last))
        return _alerts_and_wins(opened, high, low, close, x, rolling, squares, atr)

    return _timed(once, options.bars, options)


def polars(options: argparse.Namespace) -> dict[str, Any]:
    """Expressions of polars, on all its threads; trades in numpy."""
    import polars as pl

    opened, high, low, close = _loaded(options, options.bars)
    frame = pl.DataFrame({"o": opened, "h": high, "l": low, "c": close})

    def wilder(values: pl.Expr) -> pl.Expr:
        index = pl.int_range(pl.len())
        seed = values.slice(1, PERIOD).mean()
        seeded = pl.when(index == PERIOD).then(seed).when(index > PERIOD).then(values)
        return seeded.ewm_mean(alpha=1 / PERIOD, adjust=False, ignore_nulls=True)

    def once() -> tuple[int, int]:
        c, last = pl.col("c"), pl.col("c").shift(1).fill_null(pl.col("c").first())
        change, x = c - last, c - c.first()
        up, down = wilder(change.clip(0)), wilder((-change).clip(0))
        made = frame.lazy().select(
            x=x,
            total=x.rolling_sum(WINDOW),
            squares=(x * x).rolling_sum(WINDOW),
            atr=wilder(pl.max_horizontal("h", last) - pl.min_horizontal("l", last)),
            rsi=100 * up / (up + down),
        )
        found = made.collect()
        columns = (found[name].fill_null(float("nan")).to_numpy() for name in ("x", "total", "squares", "atr"))
        return _alerts_and_wins(opened, high, low, close, *columns)

    return _timed(once, options.bars, options)


def vectorbt(options: argparse.Namespace) -> dict[str, Any]:
    """Indicators in numpy, a portfolio of signals with stops in vectorbt. One position at a time: fewer trades."""
    import pandas as pd
    import vectorbt as vbt

    opened, high, low, close = _loaded(options, options.slow_bars)

    def once() -> tuple[int, int]:
        series = pd.Series(close)
        atr = vbt.ATR.run(high, low, series, window=PERIOD, ewm=True).atr.to_numpy()
        _rsi = vbt.RSI.run(series, window=PERIOD, ewm=True).rsi
        x = close - close[0]
        total = vbt.MA.run(pd.Series(x), WINDOW).ma.to_numpy() * WINDOW
        squares = vbt.MA.run(pd.Series(x * x), WINDOW).ma.to_numpy() * WINDOW
        z_side, body_side = _sides(opened, close, x, total, squares)
        side = np.where(z_side != 0, z_side, body_side)
        stop = _stops(atr) / close
        stop[~(stop > 0)] = np.nan
        portfolio = vbt.Portfolio.from_signals(
            series, open=opened, high=high, low=low, entries=side > 0, short_entries=side < 0,
            exits=False, short_exits=False, sl_stop=stop, tp_stop=stop * REWARD_RISK, freq="5min",
        )  # fmt: skip
        return int(np.count_nonzero(side)), int((portfolio.trades.records["pnl"] > 0).sum())

    return _timed(once, options.slow_bars, options)


def backtesting(options: argparse.Namespace) -> dict[str, Any]:
    """A strategy of backtesting.py with bracket orders on numpy's indicators. One position at a time: fewer trades."""
    import pandas as pd
    from backtesting import Backtest, Strategy

    columns = _loaded(options, options.slowest_bars)
    opened, high, low, close = columns
    index = pd.date_range("2000-01-01", periods=len(close), freq="5min")
    frame = pd.DataFrame(dict(zip(("Open", "High", "Low", "Close"), columns, strict=True)), index=index)
    x = close - close[0]
    total, squares = (pd.Series(each).rolling(WINDOW).sum().to_numpy() for each in (x, x * x))
    z_side, body_side = _sides(opened, close, x, total, squares)
    side = np.where(z_side != 0, z_side, body_side)
    last = np.r_[close[0], close[:-1]]
    ranges = pd.Series(np.maximum(high, last) - np.minimum(low, last))
    stops = _stops(ranges.ewm(alpha=1 / PERIOD, adjust=False).mean().to_numpy())

    class Brackets(Strategy):  # type: ignore[misc]
        def init(self) -> None:
            self.side, self.stop = self.I(lambda: side, plot=False), self.I(lambda: stops, plot=False)

        def next(self) -> None:
            price, stop = self.data.Close[-1], self.stop[-1]
            if self.side[-1] and not self.position:
                order = self.buy if self.side[-1] > 0 else self.sell
                way = 1 if self.side[-1] > 0 else -1
                order(size=1, sl=price - way * (stop + 20), tp=price + way * (REWARD_RISK * stop + 20))

    def once() -> tuple[int, int]:
        stats = Backtest(frame, Brackets, cash=10_000_000, margin=0.01, finalize_trades=True).run()
        return int(np.count_nonzero(side)), int((stats["_trades"]["PnL"] > 0).sum())

    return _timed(once, options.slowest_bars, options)


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    """1,000 settings over 60 sessions of one-minute bars: ours on one and two threads, and a loop over TA-Lib's pass."""
    from comporta.detector.bars import Bars
    from comporta.detector.kernel import SweepSetting
    from comporta.detector.kernel import sweep as run_sweep
    from comporta.detector.settings import DetectorSettings

    opened, high, low, close = (column.copy() for column in walk(60 * 535))
    slot = np.arange(60 * 535)
    times = slot // 535 * 86_400 + slot % 535 * 60 + 43_200
    bars = Bars.from_columns(
        times, opened, high, low, close, np.ones(len(slot)),
        period_min=1, tz="America/Sao_Paulo", symbol="WALK", adjustment="none",
    )  # fmt: skip
    rule = DetectorSettings.from_mapping({"market": {"period_min": 1}})
    settings = [
        SweepSetting(window=window, threshold=threshold, bars=run, stop_factor=stop, reward_risk=reward)
        for window in (10, 15, 20, 30, 40)
        for threshold in (1.5, 1.75, 2.0, 2.25, 2.5)
        for run in (1, 2)
        for stop in (0.25, 0.5, 0.75, 1.0)
        for reward in (0.5, 1.0, 1.5, 2.0, 2.5)
    ]
    run_sweep(bars, settings[:2], rule)  # compiles
    made: dict[str, Any] = {"settings": len(settings), "bars": len(slot)}
    for threads in (1, 2):
        wall = []
        for _ in range(max(5, options.rounds)):
            began = time.perf_counter()
            swept = run_sweep(bars, settings, rule, threads=threads)
            wall.append(time.perf_counter() - began)
        made |= {f"wall_ms_{threads}_thread": round(min(wall) * 1e3, 1), "trades": int(swept.trades.sum())}
    if importlib.util.find_spec("talib"):
        import talib

        began = time.perf_counter()
        for _ in range(20):
            x = close - close[0]
            sums = talib.SUM(x, WINDOW), talib.SUM(x * x, WINDOW)
            _alerts_and_wins(opened, high, low, close, x, *sums, talib.ATR(high, low, close, PERIOD))
        made["ta-lib_loop_ms_scaled_from_20"] = round((time.perf_counter() - began) * 1e3 * len(settings) / 20)
    return made


def stream(options: argparse.Namespace) -> dict[str, Any]:
    """Nanoseconds of one bar through the pure Python code: the least of the rounds' percentiles."""
    from comporta.detector.bars import Bar
    from comporta.detector.indicators import atr, rsi, started
    from comporta.detector.patterns import engulfing
    from comporta.detector.processor import Detector
    from comporta.detector.settings import DetectorSettings
    from comporta.detector.volatility import zscore_detector

    rows = walk(107 * 200).T.tolist()
    bars = [Bar(n // 107 * 86_400 + n % 107 * 300, *row, 1.0, n // 107, n % 107 * 5, 5) for n, row in enumerate(rows)]
    rule, clock = DetectorSettings(), time.perf_counter_ns

    def same_work() -> Callable[[Bar], object]:
        of_session = -1
        z = ranges = strength = engulfs = started(atr(PERIOD))

        def step(bar: Bar) -> None:
            nonlocal of_session, z, ranges, strength, engulfs
            _, opened, high, low, close, _, session, _, _ = bar
            if session != of_session:
                of_session = session
                z, ranges = started(zscore_detector(rule.zscore)), started(atr(PERIOD))
                strength, engulfs = started(rsi(PERIOD)), started(engulfing(rule.patterns))
            prices = (opened, high, low, close)
            z(prices)
            ranges(prices)
            strength(prices)
            engulfs(prices)

        return step

    def recomputed() -> Callable[[Bar], object]:
        closes: deque[float] = deque(maxlen=WINDOW)

        def step(bar: Bar) -> object:
            closes.append(bar.close)
            window = list(closes)
            return (bar.close - np.mean(window)) / (np.std(window) or 1.0)

        return step

    def nothing() -> Callable[[Bar], object]:
        return lambda _bar: None

    def percentiles(make: Callable[[], Callable[[Bar], object]]) -> tuple[float, float]:
        best = []
        for _ in range(max(5, options.rounds)):
            step, took = make(), []
            for bar in bars:
                began = clock()
                step(bar)
                took.append(clock() - began)
            took.sort()
            best.append((took[len(took) // 2], took[len(took) * 99 // 100]))
        return min(each[0] for each in best), min(each[1] for each in best)

    timer = percentiles(nothing)
    made: dict[str, Any] = {"timer_ns": timer[0], "bars": len(bars)}
    engines = {
        "same_work": same_work,
        "whole_detector": lambda: Detector(rule).step,
        "zscore_recomputed_in_numpy": recomputed,
    }
    for name, make in engines.items():
        p50, p99 = percentiles(make)
        made |= {f"{name}_p50_ns": p50 - timer[0], f"{name}_p99_ns": p99 - timer[0]}
    return made


def live(_options: argparse.Namespace) -> dict[str, Any]:
    """A fresh interpreter watches 60 sessions of one-minute bars, every detector on, nothing else loaded."""
    script = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from comporta.detector.bars import Bar
from comporta.detector.processor import processador_bdi
def source():
    price, state = 120_000, 7
    for session in range(60):
        for minute in range(535):
            state = (1103515245 * state + 12345) % 2**31
            close = price + 5 * ((state >> 16) % 21 - 10)
            high, low, opened = max(price, close) + 5, min(price, close) - 5, session * 86400 + minute * 60
            yield Bar(opened, price, high, low, close, 1.0, session, minute, 1)
            price = close
began = time.perf_counter()
alerts = sum(1 for _ in processador_bdi(source()))
took = time.perf_counter() - began
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps({"alerts": alerts, "wall_s": round(took, 3), "alerts_per_min": round(alerts / took * 60), "peak_mb": peak / 1024}))
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parents[1] / "plugins")],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(run.stdout)
    return found | {"peak_mb": round(found["peak_mb"], 1)}


ENGINES: dict[str, Engine] = {
    "ours, 1 thread": ours(1),
    "ours, 2 threads": ours(2),
    "ta-lib": talib,
    "polars": polars,
    "pandas": pandas,
    "vectorbt": vectorbt,
    "backtesting": backtesting,
    "sweep": sweep,
    "stream": stream,
    "live": live,
}
NEEDS = {
    "ta-lib": "talib",
    "polars": "polars",
    "pandas": "pandas",
    "vectorbt": "vectorbt",
    "backtesting": "backtesting",
}


def _sides(
    opened: Floats, close: Floats, x: Floats, total: Floats, squares: Floats
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Which way each bar alerts by its z-score, on the second bar in a row, and by its body; 0 where it does not."""
    off, spread = WINDOW * x - total, WINDOW * squares - total * total
    beyond = (off * off > THRESHOLD * THRESHOLD * spread) & (spread > 0)
    side = np.where(beyond, np.sign(off), 0).astype(np.int8)
    before, earlier = np.r_[0, side[:-1]], np.r_[0, 0, side[:-2]]
    z_side = np.where((side == before) & (side != earlier), side, 0).astype(np.int8)
    body, last, last_open = close - opened, np.r_[close[0], close[:-1]], np.r_[close[0], opened[:-1]]
    was = last_open - last
    rises = (was > 0) & (body > was) & (body > RATIO * was) & (opened <= last) & (close >= last_open)
    falls = (was < 0) & (body < was) & (body < RATIO * was) & (opened >= last) & (close <= last_open)
    return z_side, rises.astype(np.int8) - falls.astype(np.int8)


def _stops(atr: Floats) -> Floats:
    """The stop of each bar, points from the entry."""
    return np.maximum(np.floor(STOP_FACTOR * (atr * np.sqrt(6.0)) / TICK + 0.5) * TICK, 4 * TICK)


def _alerts_and_wins(
    opened: Floats, high: Floats, low: Floats, close: Floats, x: Floats, total: Floats, squares: Floats, atr: Floats
) -> tuple[int, int]:
    """How many alerts, and how many of their trades ended above zero, in numpy: every live trade steps on by a bar."""
    z_side, body_side = _sides(opened, close, x, total, squares)
    known = np.arange(len(close)) >= PERIOD
    at = np.r_[np.flatnonzero((z_side != 0) & known), np.flatnonzero((body_side != 0) & known)]
    side = np.r_[z_side[(z_side != 0) & known], body_side[(body_side != 0) & known]].astype(np.float64)
    alerts = len(at)
    traded = at + 1 < len(close)
    at, side = at[traded], side[traded]
    stop = _stops(atr[at])
    target = np.floor(REWARD_RISK * stop / TICK + 0.5) * TICK
    entry = opened[at + 1] + side * TICK
    wins = 0
    live = np.arange(len(at))
    for step in range(1, MOST_BARS + 1):
        k, way = at[live] + step, side[live]
        inside = k < len(close)
        k = np.minimum(k, len(close) - 1)
        worst, best = np.where(way > 0, low[k], high[k]), np.where(way > 0, high[k], low[k])
        stopped = inside & (way * (worst - entry[live]) <= -stop[live])
        reached = inside & ~stopped & (way * (best - entry[live]) >= target[live] + TICK)
        wins += int(np.count_nonzero(reached & (target[live] > FEES)))
        ends = ~stopped & ~reached & ((step == MOST_BARS) | (at[live] + step >= len(close) - 1))
        wins += int(np.count_nonzero(way[ends] * (close[k[ends]] - entry[live[ends]]) - FEES > 0))
        live = live[~(stopped | reached | ends)]
    return alerts, wins


def _settings() -> Any:
    """The settings of the pass: a session without end, and only z-score and engulfing."""
    from comporta.detector.settings import DetectorSettings

    return DetectorSettings.from_mapping(
        {"patterns": {"engulfing_body_ratio": RATIO}, "trade": {"no_entry_last_min": -(10**9)}}
    )


def _loaded(options: argparse.Namespace, bars: int) -> tuple[Floats, Floats, Floats, Floats]:
    made: Floats = np.load(options.folder / f"{bars}.npy")
    return made[0], made[1], made[2], made[3]


def _timed(once: Callable[[], tuple[int, int]], bars: int, options: argparse.Namespace) -> dict[str, Any]:
    """The best of the rounds after one that warms up; alerts and wins of the last."""
    once()
    wall, cpu = [], []
    for _ in range(options.rounds):
        began, used = time.perf_counter(), time.process_time()
        alerts, wins = once()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    best = min(wall)
    return {
        "bars": bars,
        "wall_s": round(best, 4),
        "cpu_s": round(statistics.median(cpu), 4),
        "mbars_per_s": round(bars / best / 1e6, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "alerts": alerts,
        "wins": wins,
    }


def _in_fresh_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What one engine says of itself, or why it is skipped."""
    needed = NEEDS.get(name)
    if needed and not importlib.util.find_spec(needed):
        return {"skipped": f"{needed} is not installed"}
    print(name, file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--engine", name, "--folder", str(options.folder)]
    for option in ("bars", "slow_bars", "slowest_bars", "rounds"):
        command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        return {"skipped": f"it failed: {run.stderr.strip().splitlines()[-1:]}"}
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bars", type=int, default=10_000_000)
    parser.add_argument("--slow-bars", type=int, default=10_000_000, help="for vectorbt")
    parser.add_argument("--slowest-bars", type=int, default=20_000, help="for backtesting.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", choices=list(ENGINES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
