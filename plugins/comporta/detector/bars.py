"""Bars of a market: columns of numpy for whole files, ``Bar`` for one closed bar on its way through the detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, overload
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from comporta.errors import ComportaError

Adjustment = Literal["none", "proportional", "difference"]
Floats = NDArray[np.float64]
COLUMNS = ("open_time", "open", "high", "low", "close", "volume", "session", "minute")
HOUR_S = 3600


class BadBars(ComportaError):
    """Bars are not what they are said to be: which bar, what was expected, what was found."""


class Bar(NamedTuple):
    """One closed bar. Nobody may see it before ``close_time``.

    ``open_time`` is epoch seconds UTC, ``session`` counts trading days from 0, ``minute`` the minutes from the session's start.
    """

    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    session: int
    minute: int
    period_min: int

    @property
    def close_time(self) -> int:
        """The instant from which the bar is known, epoch seconds UTC."""
        return self.open_time + 60 * self.period_min


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars in order of time, one array a column, all of one length; ``sessions[k]`` is the date of the trading day ``k``."""

    open_time: NDArray[np.int64]
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    session: NDArray[np.int32]
    minute: NDArray[np.int32]
    period_min: int
    tz: str
    symbol: str
    adjustment: Adjustment
    sessions: tuple[str, ...]
    source: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in COLUMNS}
        if len(set(lengths.values())) > 1:
            raise BadBars(f"columns of one length were expected, found {lengths}", remedy="Give every bar every field.")

    @classmethod
    def from_columns(
        cls,
        open_time: Any,
        open: Any,  # noqa: A002 - the word of the field
        high: Any,
        low: Any,
        close: Any,
        volume: Any,
        *,
        period_min: int,
        tz: str,
        symbol: str,
        adjustment: Adjustment,
        session_start: str = "09:00",
        source: str = "",
        sha256: str = "",
    ) -> Bars:
        """Bars whose sessions and minutes are told from ``open_time`` (epoch seconds UTC): a session is a local calendar day."""
        times = np.ascontiguousarray(open_time, dtype=np.int64)
        local = times + _offsets(times, tz)
        days, session = np.unique(local // 86_400, return_inverse=True)
        hours, minutes = session_start.split(":")
        start = int(hours) * 60 + int(minutes)
        return cls(
            open_time=times,
            open=_floats(open),
            high=_floats(high),
            low=_floats(low),
            close=_floats(close),
            volume=_floats(volume),
            session=session.astype(np.int32),
            minute=(local % 86_400 // 60 - start).astype(np.int32),
            period_min=period_min,
            tz=tz,
            symbol=symbol,
            adjustment=adjustment,
            sessions=tuple(str(day) for day in days.astype("datetime64[D]")),
            source=source,
            sha256=sha256,
        )

    def __len__(self) -> int:
        return len(self.open_time)

    @property
    def close_time(self) -> NDArray[np.int64]:
        """The instant from which each bar is known, epoch seconds UTC."""
        return self.open_time + 60 * self.period_min

    @overload
    def __getitem__(self, index: int) -> Bar: ...
    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Bars: ...
    def __getitem__(self, index: int | slice | NDArray[Any]) -> Bar | Bars:
        """One bar by its number; a slice, a mask or numbers give bars that keep the session numbers and dates of the whole."""
        if isinstance(index, slice | np.ndarray):
            return replace(self, **{name: getattr(self, name)[index] for name in COLUMNS})
        return Bar._make([*(getattr(self, name)[index].item() for name in COLUMNS), self.period_min])

    def __iter__(self) -> Iterator[Bar]:
        """Every bar in order, with the scalars of Python."""
        period = self.period_min
        # In pieces: lists of a whole long file would weigh several times its arrays.
        for start in range(0, len(self), 4096):
            piece = (getattr(self, name)[start : start + 4096].tolist() for name in COLUMNS)
            for fields in zip(*piece, strict=True):
                yield Bar._make((*fields, period))

    def resampled(self, period_min: int) -> Bars:
        """Longer bars, labelled by their open, within sessions; a last one that has not closed yet is left out."""
        check_resample(self.period_min, period_min)
        if period_min == self.period_min or not len(self):
            return replace(self, period_min=period_min)
        bucket = self.minute // period_min
        first = np.flatnonzero(np.r_[True, (np.diff(self.session) != 0) | (np.diff(bucket) != 0)])
        last = np.r_[first[1:], len(self)] - 1
        made = replace(
            self,
            open_time=self.open_time[first] - 60 * (self.minute[first] % period_min).astype(np.int64),
            open=self.open[first],
            high=np.maximum.reduceat(self.high, first),
            low=np.minimum.reduceat(self.low, first),
            close=self.close[last],
            volume=np.add.reduceat(self.volume, first),
            session=self.session[first],
            minute=(bucket[first] * period_min).astype(np.int32),
            period_min=period_min,
        )
        closed = bool(self.minute[-1] % period_min + self.period_min >= period_min)
        return made if closed else made[:-1]


def check_resample(found_min: int, wanted_min: int) -> None:
    """Refuse bars of which longer ones of ``wanted_min`` cannot be made."""
    if wanted_min < found_min or wanted_min % found_min:
        raise BadBars(
            f"bars of {found_min} min cannot be made into bars of {wanted_min} min",
            remedy=f"Give bars whose period divides {wanted_min} min, or set market.period_min to a multiple of {found_min}.",
        )


def resample(source: Iterable[Bar], period_min: int) -> Iterator[Bar]:
    """What ``Bars.resampled`` does, for a source that has no end: a bar is given on once its last minute, or a later bar, came."""
    made: Bar | None = None
    for bar in source:
        if bar.period_min == period_min:
            yield bar
            continue
        offset = bar.minute % period_min
        minute = bar.minute - offset
        if made is not None and (made.session != bar.session or made.minute != minute):
            yield made
            made = None
        if made is None:
            check_resample(bar.period_min, period_min)
            made = bar._replace(open_time=bar.open_time - 60 * offset, minute=minute, period_min=period_min)
        else:
            made = made._replace(
                high=max(made.high, bar.high),
                low=min(made.low, bar.low),
                close=bar.close,
                volume=made.volume + bar.volume,
            )
        if offset + bar.period_min >= period_min:
            yield made
            made = None


def _floats(column: Any) -> Floats:
    return np.ascontiguousarray(column, dtype=np.float64)


def _offsets(times: NDArray[np.int64], tz: str) -> NDArray[np.int64]:
    """Seconds to add to each epoch time to read the wall clock of ``tz``."""
    zone = ZoneInfo(tz)
    hours, which = np.unique(times // HOUR_S, return_inverse=True)
    offsets = []
    for hour in hours.tolist():
        offset = datetime.fromtimestamp(hour * HOUR_S, UTC).astimezone(zone).utcoffset()
        assert offset is not None
        offsets.append(int(offset.total_seconds()))
    return np.array(offsets, dtype=np.int64)[which]
