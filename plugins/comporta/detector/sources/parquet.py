"""Parquet files of bars: a column of times (with or without their zone) and the columns of a bar, by the names CSV has too."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from comporta.detector.bars import Floats
from comporta.detector.sources.errors import BadValue, UnknownFormat, WrongColumns
from comporta.detector.sources.table import PRICES, Table
from comporta.detector.sources.text import columns_found, plain_name

MAGIC = b"PAR1"


def table_of_parquet(source: str, content: bytes) -> Table:
    """The columns of a Parquet file; rows are counted from 1."""
    try:
        read = pq.read_table(io.BytesIO(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise UnknownFormat(
            f"{source}: expected a whole Parquet file, found one that cannot be read: {error}",
            remedy="It was cut off on its way; copy or write it again.",
            source=source,
        ) from error
    names = tuple(read.column_names)
    places = columns_found([plain_name(name) for name in names], source, names)
    if "stamp" not in places:
        raise WrongColumns(
            f"{source}: expected one column of times, found {names[places['date']]} and {names[places['time']]} apart",
            remedy="Join the two into one column of type timestamp.",
            source=source,
        )
    prices: Any = {name: _prices(source, read.column(places[name]), name) for name in PRICES}
    seconds, aware = _stamps(source, read.column(places["stamp"]))
    return Table(
        source,
        hashlib.sha256(content).hexdigest(),
        seconds,
        aware,
        **prices,
        volume=_volume(source, read, places),
        lines=np.arange(1, len(read) + 1),
        place="row",
    )


def _stamps(source: str, column: Any) -> tuple[NDArray[np.int64], bool]:
    if not pa.types.is_timestamp(column.type):
        raise WrongColumns(
            f"{source}: expected times of type timestamp, found {column.type}",
            remedy="Write the column as timestamps, with their zone if you can.",
            source=source,
        )
    _check_stated(source, column, "time")
    stamps = column.to_numpy().astype("datetime64[ns]").astype(np.int64)
    broken = np.flatnonzero(stamps % 60_000_000_000)
    if len(broken):
        row = int(broken[0]) + 1
        raise BadValue(
            f"{source}, row {row}: expected a time on a whole minute, found {column[row - 1]}",
            remedy="Give bars, each with the minute of its open.",
            source=source,
            line=row,
        )
    return stamps // 1_000_000_000, column.type.tz is not None


def _prices(source: str, column: Any, name: str) -> Floats:
    _check_stated(source, column, name)
    return _floats(source, column, name)


def _volume(source: str, read: Any, places: dict[str, int]) -> Floats:
    """NaN where the volume is not known, which is a null in the file; a NaN in the file is refused."""
    if "volume" not in places:
        return np.full(len(read), np.nan)
    column = read.column(places["volume"])
    volume = _floats(source, column, "volume")
    stated = ~np.asarray(column.is_null().to_numpy(), dtype=bool)
    broken = np.flatnonzero(np.isnan(volume) & stated)
    if len(broken):
        row = int(broken[0]) + 1
        raise BadValue(
            f"{source}, row {row}: expected a number as volume, found NaN",
            remedy="Write a null where the volume is not known.",
            source=source,
            line=row,
        )
    return volume


def _check_stated(source: str, column: Any, name: str) -> None:
    if column.null_count:
        row = int(np.argmax(np.asarray(column.is_null().to_numpy(), dtype=bool))) + 1
        raise BadValue(
            f"{source}, row {row}: expected a {name}, found nothing",
            remedy="Take the row out; the quality page will show the gap.",
            source=source,
            line=row,
        )


def _floats(source: str, column: Any, name: str) -> Floats:
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise WrongColumns(
            f"{source}: expected numbers as {name}, found {kind}",
            remedy="Write the column as numbers.",
            source=source,
        )
    numbers = pc.cast(column, pa.float64(), safe=False).to_numpy()
    return np.ascontiguousarray(numbers, dtype=np.float64)
