"""Bars from a file: what wrote it is told from its first bytes and its first line, not from its name."""

from __future__ import annotations

from pathlib import Path

from comporta.detector.bars import Adjustment, Bars
from comporta.detector.calendar import EXCHANGE_TZ
from comporta.detector.sources import parquet, text
from comporta.detector.sources.errors import TooFewBars, UnknownFormat
from comporta.detector.sources.mt5_export import MT5_EXPORT, is_mt5_export
from comporta.detector.sources.plain_csv import PLAIN_CSV
from comporta.detector.sources.profit_export import PROFIT_EXPORT, is_profit_export
from comporta.detector.sources.table import Table, bars_of


def read_bars(
    path: Path | str,
    *,
    tz: str | None,
    symbol: str,
    adjustment: Adjustment,
    period_min: int | None = None,
    exchange_tz: str = EXCHANGE_TZ,
) -> Bars:
    """The bars of a MetaTrader 5 or Profit export, a CSV or a Parquet file, on the exchange's clock.

    ``tz`` is the zone of times that state none; they are refused without it. The period is told from the bars unless it is said.
    Half a session is taken as it is: the quality page shows it. All else that is wrong raises a BarsRefused that names the line.
    """
    table = read_table(Path(path))
    return bars_of(table, tz=tz, symbol=symbol, adjustment=adjustment, period_min=period_min, exchange_tz=exchange_tz)


def read_table(path: Path) -> Table:
    """The columns of a file, of whichever format it is, before anything is asked of them."""
    source = path.name  # where it lies is of this machine only
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnknownFormat(
            f"{source}: expected a file of bars, found none that can be read: {error.strerror}",
            remedy="Look at the path, and at who may read it.",
            source=source,
        ) from error
    if not content:
        raise TooFewBars(
            f"{source}: expected bars, found an empty file",
            remedy="Export the bars again, and look whether the export ended.",
            source=source,
        )
    if content.startswith(parquet.MAGIC):
        return parquet.table_of_parquet(source, content)
    file = text.cut(source, content)
    return text.table_of(file, format_of(file))


def format_of(file: text.TextFile) -> text.TextFormat:
    """Which house wrote a text file."""
    if is_profit_export(file):
        return PROFIT_EXPORT
    return MT5_EXPORT if is_mt5_export(file) else PLAIN_CSV
