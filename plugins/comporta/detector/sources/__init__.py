"""Where bars come from: files of MetaTrader 5, Profit, CSV and Parquet, the MetaTrader 5 terminal, and the synthetic generator."""

from comporta.detector.sources.files import read_bars

__all__ = ["read_bars"]
