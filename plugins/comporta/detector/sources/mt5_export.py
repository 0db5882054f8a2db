"""What MetaTrader 5 writes when bars are exported from its Symbols window, and what scripts make of its rates.

Dates are 2024.12.30, decimals follow a point, fields are parted by tabs (or commas), times are those of the broker's server.
``<VOL>`` are contracts; a server that does not tell them writes zeros, and ``<TICKVOL>`` is taken instead.
"""

from __future__ import annotations

from comporta.detector.sources.text import TextFile, TextFormat, decimal_point

MT5_EXPORT = TextFormat(
    "a MetaTrader 5 export",
    decimal_point,
    columns=("date", "time", "open", "high", "low", "close", "tickvol", "vol", "spread"),
)


def is_mt5_export(file: TextFile) -> bool:
    """Its names stand in angle brackets, or its dates have points."""
    bracketed = any(name.strip().startswith("<") for name in file.raw_header)
    return bracketed or file.has_dates(r"\d{4}\.\d\d\.\d\d")
