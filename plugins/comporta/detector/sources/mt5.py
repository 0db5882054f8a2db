"""Bars from a running MetaTrader 5 terminal, past ones at once and new ones as they close.

The terminal's package exists for Windows only and is imported when it is asked for. The terminal's own sign-in is used: no
account, password or server passes through here. Its times count seconds of the *server's* wall clock as if that were UTC, so
the server's zone must be said; it is the broker's, and not always the exchange's.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, cast
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from comporta.detector.bars import Adjustment, Bar, Bars
from comporta.detector.calendar import EXCHANGE_TZ
from comporta.detector.sources.errors import NaiveTimes, TerminalFailed, WrongPeriod
from comporta.detector.sources.table import PRICES, Table, bars_of, check_zone

PACKAGE = "MetaTrader5"
PERIODS = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)
PIECE = timedelta(days=30)  # one answer for years of minutes would not fit the terminal's limit of bars


class Terminal(Protocol):
    """What is used of the package's functions; its constants ``TIMEFRAME_M1`` .. ``TIMEFRAME_M30`` are read by name."""

    def initialize(self) -> bool: ...
    def shutdown(self) -> None: ...
    def last_error(self) -> tuple[int, str]: ...
    def symbol_info(self, symbol: str, /) -> Any | None: ...
    def symbol_select(self, symbol: str, enable: bool, /) -> bool: ...
    def copy_rates_range(
        self, symbol: str, timeframe: int, date_from: datetime, date_to: datetime, /
    ) -> NDArray[Any] | None: ...


def load_terminal() -> Terminal:
    """The package of the terminal; TerminalFailed where it is not installed, which is everywhere but on Windows."""
    try:
        return cast(Terminal, importlib.import_module(PACKAGE))
    except ImportError as error:
        raise TerminalFailed(
            f"expected the Python package {PACKAGE} beside a MetaTrader 5 terminal, found none",
            remedy=f"Run this on the Windows machine of the terminal after `pip install {PACKAGE}`,"
            " or export the bars there (Symbols, Bars, Export) and read the file here.",
            source=PACKAGE,
        ) from error


def read_mt5(
    symbol: str,
    since: datetime,
    until: datetime,
    *,
    period_min: int,
    server_tz: str,
    adjustment: Adjustment,
    exchange_tz: str = EXCHANGE_TZ,
    terminal: Terminal | None = None,
    clock: Callable[[], float] = time.time,
) -> Bars:
    """The closed bars that open from ``since`` (with it) to ``until`` (without it); the one still forming is left out."""
    with _signed_in(terminal or load_terminal(), symbol) as (asked, source):
        rates = _rates(asked, source, symbol, since, until, period_min, server_tz)
    return bars_of(
        _closed(_table(source, rates), period_min, server_tz, clock()),
        tz=server_tz,
        symbol=symbol,
        adjustment=adjustment,
        period_min=period_min,
        exchange_tz=exchange_tz,
    )


def follow_mt5(
    symbol: str,
    since: datetime,
    *,
    period_min: int,
    server_tz: str,
    adjustment: Adjustment = "none",
    exchange_tz: str = EXCHANGE_TZ,
    terminal: Terminal | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    every_s: float = 1.0,
) -> Iterator[Bar]:
    """The bars from ``since`` on, and then each new one as soon as it has closed; it never ends by itself."""
    sessions: dict[str, int] = {}
    last, asked_from = -1, since
    with _signed_in(terminal or load_terminal(), symbol) as (asked, source):
        while True:
            # The end is ahead of every clock: a server whose clock runs fast has its bars read all the same.
            until = datetime.fromtimestamp(clock(), UTC) + timedelta(days=1)
            rates = _rates(asked, source, symbol, asked_from, until, period_min, server_tz)
            table = _closed(_table(source, rates), period_min, server_tz, clock())
            if len(table) > 1:  # the last one seen is asked for again, so that one alone is no news
                bars = bars_of(
                    table,
                    tz=server_tz,
                    symbol=symbol,
                    adjustment=adjustment,
                    period_min=period_min,
                    exchange_tz=exchange_tz,
                )
                for bar in bars:
                    if bar.open_time > last:
                        number = sessions.setdefault(bars.sessions[bar.session], len(sessions))
                        yield bar._replace(session=number)
                last = int(bars.open_time[-1])
                asked_from = datetime.fromtimestamp(last, UTC)
            sleep(every_s)


@contextmanager
def _signed_in(terminal: Terminal, symbol: str) -> Iterator[tuple[Terminal, str]]:
    """The terminal with the symbol in its list, and the name of this source; the connection is closed at the end."""
    source = f"{PACKAGE} {symbol}"
    if not terminal.initialize():
        raise _failed(
            terminal, source, "a terminal that answers", "Start MetaTrader 5 on this machine and sign in to the broker."
        )
    try:
        info = terminal.symbol_info(symbol)
        if info is None:
            raise _failed(
                terminal, source, f"a symbol {symbol}", "Look its name up in the terminal's Market Watch; WIN$N is one."
            )
        if not info.visible and not terminal.symbol_select(symbol, True):
            raise _failed(terminal, source, f"{symbol} in Market Watch", "Add the symbol to Market Watch by hand.")
        yield terminal, source
    finally:
        terminal.shutdown()


def _rates(
    terminal: Terminal, source: str, symbol: str, since: datetime, until: datetime, period_min: int, server_tz: str
) -> NDArray[Any]:
    """Rates that open in [since, until), asked for in pieces; the structured array of the package, oldest first."""
    if since.tzinfo is None or until.tzinfo is None:
        raise NaiveTimes(
            f"{source}: expected times with a zone, found {since} to {until}",
            remedy="Give both ends with their zone, such as 2025-01-02T09:00-03:00.",
            source=source,
        )
    if period_min not in PERIODS:
        raise WrongPeriod(
            f"{source}: expected a period of {', '.join(map(str, PERIODS))} min, found {period_min}",
            remedy="The terminal makes bars of no other period within the hour; ask for one that divides yours.",
            source=source,
        )
    check_zone(server_tz, source)
    timeframe = int(getattr(terminal, f"TIMEFRAME_M{period_min}"))
    # The package reads a datetime as the server's wall clock when it is labelled UTC, whatever the zone of this machine.
    start, end = (each.astimezone(ZoneInfo(server_tz)).replace(tzinfo=UTC) for each in (since, until))
    pieces = []
    while start < end:
        stop = min(start + PIECE, end)
        rates = terminal.copy_rates_range(symbol, timeframe, start, stop - timedelta(seconds=1))
        if rates is None:
            raise _failed(
                terminal,
                source,
                f"bars from {start:%Y-%m-%d %H:%M} of the server's clock on",
                "Open a chart of the symbol so that its history is loaded, raise Max bars in chart, and ask again.",
            )
        pieces.append(rates)
        start = stop
    full = [piece for piece in pieces if len(piece)]
    return np.concatenate(full) if full else np.empty(0, dtype=_EMPTY)


_EMPTY = [
    ("time", "<i8"), ("open", "<f8"), ("high", "<f8"), ("low", "<f8"), ("close", "<f8"),
    ("tick_volume", "<u8"), ("spread", "<i4"), ("real_volume", "<u8"),
]  # fmt: skip


def _table(source: str, rates: NDArray[Any]) -> Table:
    prices: Any = {name: rates[name].astype(np.float64) for name in PRICES}
    volume = rates["real_volume"] if rates["real_volume"].any() else rates["tick_volume"]
    return Table(
        source,
        hashlib.sha256(rates.tobytes()).hexdigest(),
        rates["time"].astype(np.int64),
        aware=False,
        **prices,
        volume=volume.astype(np.float64),
        lines=np.arange(1, len(rates) + 1),
        place="bar",
    )


def _closed(table: Table, period_min: int, server_tz: str, now: float) -> Table:
    """Without the bars that have not closed by ``now``, epoch seconds: their prices may still change."""
    offset = datetime.fromtimestamp(now, ZoneInfo(server_tz)).utcoffset()
    assert offset is not None
    server_now = now + offset.total_seconds()
    return table.taken(slice(0, int(np.searchsorted(table.seconds + 60 * period_min, server_now, side="right"))))


def _failed(terminal: Terminal, source: str, expected: str, remedy: str) -> TerminalFailed:
    number, words = terminal.last_error()
    return TerminalFailed(f"{source}: expected {expected}, found error {number}: {words}", remedy=remedy, source=source)
