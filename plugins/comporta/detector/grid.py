"""Bars as a table of sessions by time of day: what compares one minute with the same minute of other days reads it from here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from comporta.detector.bars import Bars, Floats
from comporta.detector.settings import MarketSettings


@dataclass(frozen=True, eq=False)
class Grid:
    """One row a whole session, one column a bar's place in the session; a bar that is missing is NaN, its ``index`` -1.

    ``session`` gives each row's number in the bars, ``index`` each cell's position in them. A session with fewer than
    ``min_session_share`` of its bars has no row, a bar outside the session's hours has no cell.
    """

    session: NDArray[np.int32]
    index: NDArray[np.int64]
    high: Floats
    low: Floats
    close_time: NDArray[np.int64]
    period_min: int

    @classmethod
    def of(cls, bars: Bars, market: MarketSettings) -> Grid:
        """The grid of ``bars``, whatever their period."""
        slots = market.session_min // bars.period_min
        slot = bars.minute // bars.period_min
        inside = np.flatnonzero((slot >= 0) & (slot < slots))
        numbers, counts = np.unique(bars.session[inside], return_counts=True)
        whole = numbers[counts >= market.min_session_share * slots]
        kept = inside[np.isin(bars.session[inside], whole)]
        index = np.full((len(whole), slots), -1, dtype=np.int64)
        index[np.searchsorted(whole, bars.session[kept]), slot[kept]] = kept
        there = index >= 0
        return cls(
            session=whole.astype(np.int32),
            index=index,
            high=np.where(there, bars.high[index], np.nan) if len(bars) else np.empty(index.shape),
            low=np.where(there, bars.low[index], np.nan) if len(bars) else np.empty(index.shape),
            close_time=np.where(there, bars.close_time[index], 0) if len(bars) else np.empty(index.shape, np.int64),
            period_min=bars.period_min,
        )

    def ranges(self, *, window_min: int, first_min: int) -> Floats:
        """R: highest high less lowest low of the last ``window_min`` within the session, points.

        NaN before ``first_min`` of the session have passed, and where there is no bar.
        """
        width = max(1, window_min // self.period_min)
        pad = ((0, 0), (width - 1, 0))
        highest = sliding_window_view(
            np.pad(np.nan_to_num(self.high, nan=-np.inf), pad, constant_values=-np.inf), width, 1
        )
        lowest = sliding_window_view(np.pad(np.nan_to_num(self.low, nan=np.inf), pad, constant_values=np.inf), width, 1)
        found = np.where(self.index >= 0, highest.max(-1) - lowest.min(-1), np.nan)
        found[:, : max(0, -(-first_min // self.period_min) - 1)] = np.nan
        return np.asarray(found)

    def medians(self, ranges: Floats, *, before: int, after: int, half_width_min: int) -> Floats:
        """The median of ``ranges`` at each cell's time of day +- ``half_width_min`` over the sessions around its own.

        Sessions s - ``before`` .. s + ``after`` - 1 are read: ``after`` = 0 reads the past only, and gives NaN to the sessions
        that have fewer than ``before`` behind them; ``after`` > 0 is hindsight, cut off where the data end.
        """
        half = half_width_min // self.period_min
        padded = np.pad(ranges, ((0, 0), (half, half)), constant_values=np.nan)
        near = sliding_window_view(padded, 2 * half + 1, 1)
        rows, slots = ranges.shape
        found = np.full(ranges.shape, np.nan)
        for row in range(rows):
            if after == 0 and row < before:
                continue
            piece = near[max(0, row - before) : row + after]
            found[row] = _median(piece.transpose(1, 0, 2).reshape(slots, -1))
        return found

    def expected(self, *, window_min: int, first_min: int, sessions: int, half_width_min: int) -> Floats:
        """E: the causal expectation of R, from the ``sessions`` before each only, points."""
        ranges = self.ranges(window_min=window_min, first_min=first_min)
        return self.medians(ranges, before=sessions, after=0, half_width_min=half_width_min)


def _median(rows: Floats) -> Floats:
    """The median of what is no NaN in each row; numpy's own takes a hundred times as long when there are NaNs."""
    ordered = np.sort(rows, axis=1)  # NaNs go last
    count = np.count_nonzero(~np.isnan(ordered), axis=1)
    pick = np.arange(len(rows))
    middle = (
        ordered[pick, np.maximum(count - 1, 0) // 2] + ordered[pick, np.minimum(count // 2, rows.shape[1] - 1)]
    ) / 2
    return np.asarray(np.where(count > 0, middle, np.nan))
