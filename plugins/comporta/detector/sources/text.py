"""Text files of bars: encoding, delimiter and header are found out; a ``TextFormat`` says how its house writes them."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comporta.detector.bars import Floats
from comporta.detector.sources.errors import BadValue, TooFewBars, UnknownFormat, WrongColumns
from comporta.detector.sources.table import PRICES, Table

# Names as ``plain_name`` leaves them. Of several that a file has, the first one listed here is taken.
NAMES = {
    "date": ("date", "data", "dia", "day"),
    "time": ("time", "hour", "hora", "horario"),
    "stamp": (
        "datetime",
        "timestamp",
        "ts",
        "datahora",
        "datetimeutc",
        "opentime",
        "time",
        "date",
        "data",
        "indexlevel0",
    ),
    "open": ("open", "abertura", "o"),
    "high": ("high", "maximo", "maxima", "max", "h"),
    "low": ("low", "minimo", "minima", "min", "l"),
    "close": ("close", "fechamento", "ultimo", "c"),
    "volume": ("realvolume", "vol", "quantidade", "quantity", "qtde", "volume", "v", "tickvolume", "tickvol"),
    "symbol": ("symbol", "ativo", "ticker"),
}
TICK_VOLUME = ("tickvolume", "tickvol")
DATE = r"\d{4}-\d\d-\d\d|\d{4}\.\d\d\.\d\d|\d{4}/\d\d/\d\d|\d{8}|\d\d/\d\d/\d{4}"
STAMP = re.compile(
    rf"(?P<date>{DATE})(?:[T ](?P<time>\d\d?:\d\d(?::\d\d(?:\.\d+)?)?|\d{{4}}(?:\d\d)?))?"
    r"(?P<zone> ?(?:Z|UTC|GMT|[+-]\d\d(?::?\d\d)?))?"
)
EPOCH = re.compile(r"\d{9,10}(\d{3})?(\.0+)?")
BRAZILIAN = re.compile(r"-?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?")


@dataclass(frozen=True)
class TextFormat:
    """How one house writes bars: ``columns`` are those of a file without a header; None where a header is a must."""

    name: str
    number: Callable[[str], float]
    day_first: bool = False
    newest_first: bool = False
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TextFile:
    """A text file cut into rows of fields: ``header`` are plain names, empty where the first line is a bar already."""

    source: str
    sha256: str
    delimiter: str
    header: tuple[str, ...]
    raw_header: tuple[str, ...]
    header_line: int
    rows: list[list[str]]
    lines: list[int]

    @property
    def first(self) -> list[str]:
        """The first row of values; empty when there is none."""
        return self.rows[0] if self.rows else []

    def has_dates(self, pattern: str) -> bool:
        """True when a field of the first row begins with a date that looks like this."""
        return any(re.match(pattern, field) for field in self.first)


def decimal_point(text: str) -> float:
    """A number with a point before its decimals, and no thousands; ValueError otherwise."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def decimal_comma(text: str) -> float:
    """A number as Brazil writes it: 124.080 is a hundred and twenty-four thousand and eighty, 1.234,56 has two decimals."""
    if not BRAZILIAN.fullmatch(text):
        raise ValueError(text)
    return float(text.replace(".", "").replace(",", "."))


def plain_name(text: str) -> str:
    """A column's name without case, accents, brackets, spaces and underscores: ``<TICKVOL>`` is ``tickvol``."""
    letters = unicodedata.normalize("NFKD", text.strip().lower())
    return "".join(letter for letter in letters if letter.isascii() and letter.isalnum())


def cut(source: str, content: bytes) -> TextFile:
    """The file in rows; TooFewBars when there is nothing in it, UnknownFormat when it is no text."""
    text = _decoded(source, content)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max("\t;,", key=first.count)
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, skipinitialspace=True)
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                rows.append(fields)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise BadValue(
            f"{source}, line {reader.line_num}: expected fields parted by {delimiter!r}, found what is none: {error}",
            remedy="The file was cut off or edited there; export it again, or take the line out.",
            source=source,
            line=reader.line_num,
        ) from error
    if not rows:
        raise TooFewBars(
            f"{source}: expected bars, found an empty file",
            remedy="Export the bars again, and look whether the export ended.",
            source=source,
        )
    headed = not any(STAMP.fullmatch(field.strip()) for field in rows[0])
    raw = tuple(rows[0]) if headed else ()
    return TextFile(
        source,
        hashlib.sha256(content).hexdigest(),
        delimiter,
        tuple(plain_name(field) for field in raw),
        raw,
        lines[0],
        rows[headed:],
        lines[headed:],
    )


def table_of(file: TextFile, form: TextFormat) -> Table:
    """The columns of a text file as numbers and times; the first field that is neither is named."""
    places = _places(file, form)
    _check_width(file)
    stamps, aware = _stamps(file, form, places)
    _check_one_symbol(file, places)
    prices: Any = {name: _numbers(file, form, places[name], name) for name in PRICES}
    return Table(
        file.source, file.sha256, stamps, aware, **prices, volume=_volume(file, form, places),
        lines=np.array(file.lines, dtype=np.int64), newest_first=form.newest_first,
    )  # fmt: skip


def columns_found(names: Sequence[str], source: str, shown: Sequence[str], line: int | None = None) -> dict[str, int]:
    """The index of each column of bars among plain names; WrongColumns names what is missing, and what is there."""
    place = source if line is None else f"{source}, line {line}"
    found: dict[str, int] = {}
    for meaning, known in NAMES.items():
        places = [index for name in known for index, other in enumerate(names) if other == name]
        if places:
            twice = [index for index in places if names[index] == names[places[0]]]
            if len(twice) > 1:
                raise WrongColumns(
                    f"{place}: expected each column once, found {shown[twice[0]]!r} {len(twice)} times",
                    remedy="Take the one that is not meant out, or give it another name.",
                    source=source,
                    line=line,
                )
            found[meaning] = places[0]
    if "time" in found and "date" in found:
        found.pop("stamp", None)
    elif "stamp" in found:
        found.pop("date", None)
        found.pop("time", None)
    missing = [name for name in PRICES if name not in found]
    if "stamp" not in found and "date" not in found:
        missing.insert(0, "time")
    if missing:
        raise WrongColumns(
            f"{place}: expected columns time, open, high, low, close and volume, found {', '.join(shown) or 'none'};"
            f" missing: {', '.join(missing)}",
            remedy="Name the columns in the first line: date and time, or datetime; open, high, low, close, volume.",
            source=source,
            line=line,
        )
    return found


def _decoded(source: str, content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content[:4096] or content[:2] in (b"PK", b"\x1f\x8b"):
        raise UnknownFormat(
            f"{source}: expected text or Parquet, found something else (it begins with {content[:4]!r})",
            remedy="Save it as CSV or Parquet; unpack it first if it is packed.",
            source=source,
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")  # what Windows programs write in Brazil


def _places(file: TextFile, form: TextFormat) -> dict[str, int]:
    if file.header:
        return columns_found(file.header, file.source, file.raw_header, file.header_line)
    if form.columns is None:
        raise WrongColumns(
            f"{file.source}, line {file.lines[0]}: expected the names of the columns, found {file.delimiter.join(file.first)!r}",
            remedy="Write a first line such as datetime,open,high,low,close,volume.",
            source=file.source,
            line=file.lines[0],
        )
    names = form.columns[: len(file.first)]
    return columns_found(names, file.source, names, file.lines[0])


def _check_width(file: TextFile) -> None:
    width = len(file.header) or len(file.first)
    for line, row in zip(file.lines, file.rows, strict=True):
        if len(row) != width:
            raise BadValue(
                f"{file.source}, line {line}: expected {width} fields, found {len(row)}",
                remedy="The file was cut off or edited there; export it again, or take the line out.",
                source=file.source,
                line=line,
            )


def _check_one_symbol(file: TextFile, places: dict[str, int]) -> None:
    if "symbol" not in places or not file.rows:
        return
    column = places["symbol"]
    first = file.first[column]
    for line, row in zip(file.lines, file.rows, strict=True):
        if row[column] != first:
            raise BadValue(
                f"{file.source}, line {line}: expected bars of {first} as above, found {row[column]}",
                remedy="Export one instrument a file.",
                source=file.source,
                line=line,
            )


def _stamps(file: TextFile, form: TextFormat, places: dict[str, int]) -> tuple[NDArray[np.int64], bool]:
    """Seconds from 1970-01-01 of every row, and whether they are of UTC."""
    if "stamp" in places:
        texts = [row[places["stamp"]].strip() for row in file.rows]
    else:
        day, hour = places["date"], places["time"]
        texts = [f"{row[day].strip()} {row[hour].strip()}" for row in file.rows]
    seconds = np.empty(len(texts), dtype=np.int64)
    aware: bool | None = None
    for index, text in enumerate(texts):
        try:
            seconds[index], zoned = _stamp(text, day_first=form.day_first)
        except ValueError as error:
            raise BadValue(
                f"{file.source}, line {file.lines[index]}: expected a time such as"
                f" {'30/12/2024 09:00' if form.day_first else '2024-12-30 09:00'}, found {text!r}{error}",
                remedy="Write every bar with the date and the minute of its open.",
                source=file.source,
                line=file.lines[index],
            ) from error
        if aware is not None and zoned != aware:
            raise BadValue(
                f"{file.source}, line {file.lines[index]}: expected a time {'with' if aware else 'without'} a zone as"
                f" above, found {text!r}",
                remedy="Write all times in one way.",
                source=file.source,
                line=file.lines[index],
            )
        aware = zoned
    return seconds, bool(aware)


def _stamp(text: str, *, day_first: bool) -> tuple[int, bool]:
    """Seconds from 1970-01-01 and whether they are of UTC. ValueError says what is wrong in words."""
    if EPOCH.fullmatch(text):
        number = int(text.partition(".")[0])
        return (number // 1000 if number >= 10**11 else number), True
    match = STAMP.fullmatch(text)
    if match is None:
        raise ValueError("")
    if match["time"] is None:
        raise ValueError(", a day without its minutes")
    seconds = _day(match["date"], day_first) + _clock(match["time"])
    if match["zone"] is None:
        return seconds, False
    digits = re.sub(r"\D", "", match["zone"]).ljust(4, "0")
    offset = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return seconds - (-offset if "-" in match["zone"] else offset), True


@lru_cache(maxsize=4096)  # few days and minutes, many bars
def _day(text: str, day_first: bool) -> int:
    """Seconds from 1970-01-01 to the start of a day; one with the day in front is only taken from a house that writes so."""
    digits = re.sub(r"\D", "", text)
    if "/" in text[:3]:
        if not day_first:
            raise ValueError(", of which nobody can tell day from month: write the year first")
        digits = digits[4:] + digits[2:4] + digits[:2]
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        raise ValueError(", which is in no calendar") from None
    if not 1970 <= day.year < 2200:
        raise ValueError(", when no market wrote bars")
    return (day.toordinal() - 719_163) * 86_400


@lru_cache(maxsize=4096)
def _clock(text: str) -> int:
    """Seconds after midnight of H:MM, H:MM:SS or HHMMSS."""
    parts = text.split(":") if ":" in text else [text[i : i + 2] for i in range(0, len(text), 2)]
    hours, minutes, seconds = int(parts[0]), int(parts[1]), float(parts[2]) if len(parts) > 2 else 0.0
    if hours > 23 or minutes > 59 or seconds >= 60:
        raise ValueError(", which is on no clock")
    if seconds:
        raise ValueError(", where a bar opens on a whole minute")
    return hours * 3600 + minutes * 60


def _numbers(file: TextFile, form: TextFormat, column: int, name: str) -> Floats:
    texts = [row[column].strip() for row in file.rows]
    try:
        return np.array([form.number(text) for text in texts], dtype=np.float64)
    except ValueError:
        index = next(index for index, text in enumerate(texts) if not _is_number(text, form))
    hint = " with a decimal comma" if form.number is decimal_comma else ""
    raise BadValue(
        f"{file.source}, line {file.lines[index]}: expected a number{hint} as {name}, found {texts[index]!r}",
        remedy=f"This file was read as {form.name}; correct the field, or take the line out.",
        source=file.source,
        line=file.lines[index],
    )


def _volume(file: TextFile, form: TextFormat, places: dict[str, int]) -> Floats:
    """Contracts traded, NaN where the file says nothing; a terminal that knows no real volume has its count of ticks instead."""
    if "volume" not in places:
        return np.full(len(file.rows), np.nan)
    volume = _volumes(file, form, places["volume"])
    ticks = [index for index, name in enumerate(file.header) if name in TICK_VOLUME]
    if ticks and not np.nan_to_num(volume).any():
        return _volumes(file, form, ticks[0])
    return volume


def _volumes(file: TextFile, form: TextFormat, column: int) -> Floats:
    volume = np.full(len(file.rows), np.nan)
    stated = [index for index, row in enumerate(file.rows) if row[column].strip()]
    part = TextFile(
        file.source, file.sha256, file.delimiter, file.header, file.raw_header, file.header_line,
        [file.rows[index] for index in stated], [file.lines[index] for index in stated],
    )  # fmt: skip
    volume[stated] = numbers = _numbers(part, form, column, "volume")
    if np.isnan(numbers).any():
        line = part.lines[int(np.argmax(np.isnan(numbers)))]
        raise BadValue(
            f"{file.source}, line {line}: expected a number as volume, found NaN",
            remedy="Leave the field empty where the volume is not known.",
            source=file.source,
            line=line,
        )
    return volume


def _is_number(text: str, form: TextFormat) -> bool:
    try:
        form.number(text)
    except ValueError:
        return False
    return True
