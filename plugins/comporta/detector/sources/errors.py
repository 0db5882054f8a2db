"""Why bars were refused. Each names the source, the line, what was expected, what was found, and the way out; none was kept.

BadBars
└── BarsRefused
    ├── NaiveTimes       times without a zone, and no zone was given
    ├── UnknownZone      a zone that no zone table knows
    ├── NoSuchTime       a wall-clock time that the zone skips, or shows twice
    ├── WrongColumns     a column is missing, or is there twice
    ├── BadValue         a field that is no time, no number, or no price or volume that can be
    ├── NotInOrder       a bar that opens before the one above it
    ├── DuplicateBar     two bars of one time
    ├── WrongPeriod      bars closer to each other, or further off the clock's grid, than their period allows
    ├── TooFewBars       nothing, or one bar
    ├── UnknownFormat    a file that is none of those we read
    └── TerminalFailed   the MetaTrader 5 terminal is not there, or refused
"""

from __future__ import annotations

from comporta.detector.bars import BadBars


class BarsRefused(BadBars):
    """A source of bars cannot be used as it stands: ``source`` names it, ``line`` is 1-based, None where no one is to blame."""

    def __init__(self, message: str, *, remedy: str, source: str, line: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.source = source
        self.line = line


class NaiveTimes(BarsRefused):
    """The times say neither zone nor offset, and none was given: nobody can tell which instants they are."""


class UnknownZone(BarsRefused):
    """A time zone was named that the zone table does not know."""


class NoSuchTime(BarsRefused):
    """A wall-clock time that never was in the zone, or was twice: the clock was put forward or back there."""


class WrongColumns(BarsRefused):
    """The columns are not those of bars: one is missing, or is there twice."""


class BadValue(BarsRefused):
    """A field is no time or number, or says what no bar can be: high below low, a price of nothing, a negative volume."""


class NotInOrder(BarsRefused):
    """A bar opens before the one above it."""


class DuplicateBar(BarsRefused):
    """Two bars open at one time."""


class WrongPeriod(BarsRefused):
    """Bars are not of the period that was said, or that most of them have."""


class TooFewBars(BarsRefused):
    """There is nothing to read, or a single bar, of which nothing can be said."""


class UnknownFormat(BarsRefused):
    """The file is neither a MetaTrader 5 nor a Profit export, nor a CSV or Parquet file with columns of bars."""


class TerminalFailed(BarsRefused):
    """The MetaTrader 5 terminal cannot be asked, or refused: its own number and words are in the message."""
