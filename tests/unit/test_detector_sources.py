"""Bars from exports, CSV, Parquet and a terminal: what is read, and what is refused by line, with a way out."""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comporta.detector.bars import BadBars, Bars
from comporta.detector.sources import read_bars
from comporta.detector.sources.errors import (
    BadValue,
    BarsRefused,
    DuplicateBar,
    NaiveTimes,
    NoSuchTime,
    NotInOrder,
    TerminalFailed,
    TooFewBars,
    UnknownFormat,
    UnknownZone,
    WrongColumns,
    WrongPeriod,
)
from comporta.detector.sources.mt5 import follow_mt5, load_terminal, read_mt5
from comporta.detector.sources.text import decimal_comma

SAO_PAULO = "America/Sao_Paulo"
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "win"
HEADER = "datetime,open,high,low,close,volume\n"
GOOD = (
    "2024-12-30 09:00,124080,124090,123935,123985,10",
    "2024-12-30 09:01,123985,124000,123900,123950,20",
    "2024-12-30 09:02,123950,124050,123950,124040,30",
)


def epoch(text: str, zone: str = SAO_PAULO) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def written(content: str | bytes) -> Path:
        path = tmp_path / "bars.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def read(path: Path, tz: str | None = SAO_PAULO, **more: Any) -> Bars:
    return read_bars(path, tz=tz, symbol="WIN", adjustment="none", **more)


def csv(*rows: str, header: str = HEADER) -> str:
    return header + "\n".join(rows) + "\n"


def same_as_good(bars: Bars) -> None:
    assert bars.open_time.tolist() == [epoch(f"2024-12-30 09:0{minute}") for minute in range(3)]
    assert bars.open.tolist() == [124080, 123985, 123950]
    assert bars.high.tolist() == [124090, 124000, 124050]
    assert bars.low.tolist() == [123935, 123900, 123950]
    assert bars.close.tolist() == [123985, 123950, 124040]
    assert bars.volume.tolist() == [10, 20, 30]
    assert (bars.period_min, bars.tz, bars.symbol, bars.adjustment) == (1, SAO_PAULO, "WIN", "none")
    assert (bars.sessions, bars.minute.tolist()) == (("2024-12-30",), [0, 1, 2])


MT5_TABS = (
    "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\r\n"
    "2024.12.30\t09:00:00\t124080\t124090\t123935\t123985\t5\t10\t1\r\n"
    "2024.12.30\t09:01:00\t123985\t124000\t123900\t123950\t5\t20\t1\r\n"
    "2024.12.30\t09:02:00\t123950\t124050\t123950\t124040\t5\t30\t1\r\n"
)
MT5_SCRIPT = (
    "date,hour,open,high,low,close,real_volume,tick_volume,spread\n"
    "2024.12.30,09:00:00,124080,124090,123935,123985,10,5,\n"
    "2024.12.30,09:01:00,123985,124000,123900,123950,20,5,\n"
    "2024.12.30,09:02:00,123950,124050,123950,124040,30,5,\n"
)
PROFIT = (
    "Ativo;Data;Hora;Abertura;Máximo;Mínimo;Fechamento;Volume;Quantidade\n"
    "WINFUT;30/12/2024;09:02:00;123.950;124.050;123.950;124.040;600.822.115,84;30\n"
    "WINFUT;30/12/2024;09:01:00;123.985;124.000;123.900;123.950;700.822.115,84;20\n"
    "WINFUT;30/12/2024;09:00:00;124.080;124.090;123.935;123.985;800.822.115,84;10\n"
)
PROFIT_ONE_COLUMN = (
    "Data;Abertura;Máxima;Mínima;Fechamento;Quantidade\n"
    "30/12/2024 09:00;124080,00;124090,00;123935,00;123985,00;10\n"
    "30/12/2024 09:01;123985,00;124000,00;123900,00;123950,00;20\n"
    "30/12/2024 09:02;123950,00;124050,00;123950,00;124040,00;30\n"
)


@pytest.mark.parametrize(
    "content",
    [
        csv(*GOOD).encode(),
        csv(*GOOD).replace(",", ";").encode(),
        csv(*GOOD).replace(",", ";").replace("5;", "5,00;").encode(),
        csv(*GOOD, header="Time,Open,High,Low,Close,Volume\n").replace(" 09", "T09").encode("utf-8-sig"),
        csv(*GOOD).replace("-", "/").encode(),
        csv(*(row.replace(" ", ",", 1) for row in GOOD), header="date,time,open,high,low,close,volume\n").encode(),
        MT5_TABS.encode(),
        MT5_TABS.encode("utf-16"),
        MT5_TABS.partition("\r\n")[2].encode(),
        MT5_SCRIPT.encode(),
        PROFIT.encode(),
        PROFIT.encode("cp1252"),
        PROFIT.partition("\n")[2].encode(),
        PROFIT_ONE_COLUMN.encode(),
    ],
    ids=[
        "plain", "plain with semicolons", "plain with decimal commas",
        "plain with T and a byte order mark", "plain with slashes", "date and time apart",
        "MT5 with tabs", "MT5 in UTF-16", "MT5 without header", "MT5 rates in a CSV", "Profit", "Profit in Windows-1252",
        "Profit without header", "Profit with day and hour in one column",
    ],
)  # fmt: skip
def test_the_same_bars_are_read_from_every_format(write: Callable[[bytes], Path], content: bytes) -> None:
    same_as_good(read(write(content)))


@pytest.mark.parametrize(
    "stamps",
    [
        ("2024-12-30T12:00:00Z", "2024-12-30T12:01:00Z", "2024-12-30T12:02:00Z"),
        ("2024-12-30 09:00-03:00", "2024-12-30 09:01-03:00", "2024-12-30 09:02-03:00"),
        ("2024-12-30 13:00:00+0100", "2024-12-30 12:01:00 UTC", "2024-12-30 09:02:00-03"),
        ("1735560000", "1735560060", "1735560120"),
        ("1735560000000", "1735560060000", "1735560120000"),
    ],
    ids=["Z", "an offset", "several offsets", "epoch seconds", "epoch milliseconds"],
)
def test_times_with_a_zone_need_no_other_and_have_the_sessions_of_the_exchange(
    write: Callable[[str], Path], stamps: Sequence[str]
) -> None:
    rows = (f"{stamp},{row.partition(',')[2]}" for stamp, row in zip(stamps, GOOD, strict=True))
    same_as_good(read(write(csv(*rows)), tz=None))


def test_a_file_in_universal_time_has_the_sessions_of_the_exchange(write: Callable[[str], Path]) -> None:
    same_as_good(read(write(csv(*GOOD).replace(" 09:", " 12:")), tz="UTC"))


def test_the_summer_time_of_the_exchange_is_heeded(write: Callable[[str], Path]) -> None:
    bars = read(write(csv(*GOOD).replace("2024-12-30", "2015-12-30")))
    assert bars.open_time[0] == epoch("2015-12-30 11:00", "UTC")
    assert bars.minute.tolist() == [0, 1, 2]


def test_bars_carry_the_name_and_the_digest_of_their_file_and_not_where_it_lies(write: Callable[[str], Path]) -> None:
    path = write(csv(*GOOD))
    bars = read(path)
    assert bars.source == "bars.csv"
    assert bars.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_terminal_that_knows_no_real_volume_gives_its_count_of_ticks(write: Callable[[str], Path]) -> None:
    assert read(write(MT5_SCRIPT.replace(",10,", ",0,").replace(",20,", ",0,").replace(",30,", ",0,"))).volume[0] == 5


def test_a_volume_that_is_not_known_is_no_number_and_no_error(write: Callable[[str], Path]) -> None:
    assert np.isnan(read(write(csv(GOOD[0], GOOD[1][:-2], GOOD[2]))).volume).tolist() == [False, True, False]
    without = (row.rpartition(",")[0] for row in GOOD)
    assert np.isnan(read(write(csv(*without, header=HEADER.replace(",volume", "")))).volume).all()


def test_bars_of_five_minutes_are_told_from_their_distance_and_half_a_session_is_taken(
    write: Callable[[str], Path],
) -> None:
    rows = [f"2024-12-30 {9 + i // 12:02d}:{i % 12 * 5:02d},100,110,90,105,1" for i in range(50)]
    rows += [f"2025-01-02 {9 + i // 12:02d}:{i % 12 * 5:02d},100,110,90,105,1" for i in range(10)]
    bars = read(write(csv(*rows)))
    assert (bars.period_min, len(bars), len(bars.sessions)) == (5, 60, 2)


@pytest.mark.parametrize(
    ("content", "tz", "kind", "line", "says"),
    [
        (csv(*GOOD), None, NaiveTimes, 2, ("2024-12-30 09:00", "without", "--tz America/Sao_Paulo")),
        (csv(*GOOD), "America/Sao_Paolo", UnknownZone, None, ("America/Sao_Paulo",)),
        (csv(*GOOD), "../etc", UnknownZone, None, ("--tz",)),
        ("", SAO_PAULO, TooFewBars, None, ("empty",)),
        ("\n \n", SAO_PAULO, TooFewBars, None, ("empty",)),
        (HEADER, SAO_PAULO, TooFewBars, None, ("no bar",)),
        (csv(GOOD[0]), SAO_PAULO, TooFewBars, 2, ("one bar", "two")),
        (csv(*GOOD, header="a,b,c,d,e,f\n"), SAO_PAULO, WrongColumns, 1, ("missing: time, open, high", "found a, b")),
        (csv(*GOOD).replace("low", "lo"), SAO_PAULO, WrongColumns, 1, ("missing: low",)),
        (csv(*GOOD).replace("low", "high"), SAO_PAULO, WrongColumns, 1, ("'high' 2 times",)),
        (csv(*GOOD, header=""), SAO_PAULO, WrongColumns, 1, ("names of the columns",)),
        (csv(GOOD[0], GOOD[2], GOOD[1]), SAO_PAULO, NotInOrder, 4, ("09:01", "after 2024-12-30 09:02", "line 3")),
        (csv(*GOOD[::-1]), SAO_PAULO, NotInOrder, 3, ("oldest first",)),
        (csv(*GOOD, GOOD[2]), SAO_PAULO, DuplicateBar, 5, ("09:02", "line 4")),
        (csv(*GOOD).replace("123900", "NaN"), SAO_PAULO, BadValue, 3, ("number as low", "nan", "(2024-12-30 09:01)")),
        (csv(*GOOD).replace("123900", ""), SAO_PAULO, BadValue, 3, ("number as low", "''")),
        (csv(*GOOD).replace("123900", "inf"), SAO_PAULO, BadValue, 3, ("number as low", "inf")),
        (csv(*GOOD).replace("123900", "-5"), SAO_PAULO, BadValue, 3, ("above 0 as low", "-5")),
        (csv(*GOOD).replace("123900", "abc"), SAO_PAULO, BadValue, 3, ("number as low", "'abc'")),
        (csv(*GOOD).replace(",20\n", ",-20\n"), SAO_PAULO, BadValue, 3, ("volume of 0 or more", "-20")),
        (csv(*GOOD).replace(",20\n", ",nan\n"), SAO_PAULO, BadValue, 3, ("volume", "NaN")),
        (csv(*GOOD).replace(",20\n", ",inf\n"), SAO_PAULO, BadValue, 3, ("volume", "inf")),
        (csv(*GOOD).replace("124000", "123000"), SAO_PAULO, BadValue, 3, ("high not below the low", "123000")),
        (csv(*GOOD).replace("124000", "123970"), SAO_PAULO, BadValue, 3, ("high not below open", "123970")),
        (csv(*GOOD).replace("123900", "123960"), SAO_PAULO, BadValue, 3, ("low not above", "123960")),
        (csv(GOOD[0], "2024-12-30 09:01,123985", GOOD[2]), SAO_PAULO, BadValue, 3, ("6 fields", "found 2")),
        (csv(*GOOD).replace("09:01", "25:01"), SAO_PAULO, BadValue, 3, ("25:01", "clock")),
        (csv(*GOOD).replace("09:01", "09:01:30"), SAO_PAULO, BadValue, 3, ("09:01:30", "whole minute")),
        (csv(*GOOD).replace("30 09:01", "32 09:01"), SAO_PAULO, BadValue, 3, ("2024-12-32", "calendar")),
        (csv(*GOOD).replace("2024-12-30 09:01", "30/12/2024 09:01"), SAO_PAULO, BadValue, 3, ("day from month",)),
        (csv(*GOOD).replace("09:01", "09:01Z"), SAO_PAULO, BadValue, 3, ("without a zone as above",)),
        (csv(*GOOD).replace(" 09:01", ""), SAO_PAULO, BadValue, 3, ("a day without its minutes",)),
        (csv(*GOOD).replace("2024-12-30 09:01", "0001-12-30 09:01"), SAO_PAULO, BadValue, 3, ("no market",)),
        ('""\n""', SAO_PAULO, TooFewBars, None, ("empty",)),
        (csv(*GOOD).replace("123900", '"' + "1" * 200_000), SAO_PAULO, BadValue, 3, ("fields parted by ','",)),
        (csv(*GOOD).replace("09:01", "soon"), SAO_PAULO, BadValue, 3, ("soon",)),
        (csv(*GOOD).replace("2024-12-30 09", "2018-11-04 00"), SAO_PAULO, NoSuchTime, 2, ("put forward", "2018-11-04 00:00")),
        (csv(*GOOD).replace("2024-12-30 09", "2018-02-17 23"), SAO_PAULO, NoSuchTime, 2, ("put back",)),
        (PROFIT.replace("123.900", "123.90"), SAO_PAULO, BadValue, 3, ("decimal comma", "'123.90'", "Profit")),
        (PROFIT.replace("WINFUT;30/12/2024;09:01", "WDOFUT;30/12/2024;09:01"), SAO_PAULO, BadValue, 3, ("WDOFUT", "one")),
        (csv("2024-12-30,1,2,1,2,3", "2024-12-31,1,2,1,2,3", header=HEADER), SAO_PAULO, BadValue, 2, ("minutes",)),
        (csv(GOOD[0], GOOD[0].replace("-30 ", "-31 ")), SAO_PAULO, WrongPeriod, None, ("86400 s apart",)),
        ("PK\x03\x04rest", SAO_PAULO, UnknownFormat, None, ("CSV or Parquet",)),
        ("PAR1 and no more", SAO_PAULO, UnknownFormat, None, ("whole Parquet",)),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_line_with_what_was_expected_and_found_and_the_way_out(
    write: Callable[[str], Path],
    content: str,
    tz: str | None,
    kind: type[BarsRefused],
    line: int | None,
    says: Sequence[str],
) -> None:
    with pytest.raises(BadBars) as refused:
        read(write(content), tz)
    assert type(refused.value) is kind
    assert (refused.value.source, refused.value.line) == ("bars.csv", line)
    assert "bars.csv" in refused.value.message
    assert line is None or f"line {line}" in refused.value.message
    assert refused.value.remedy
    for words in (*says, "expected", "found"):
        assert words.lower() in str(refused.value).lower()


@settings(
    derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_spoilt_file_is_read_or_refused_and_never_ends_in_another_error(
    write: Callable[[bytes], Path], data: st.DataObject
) -> None:
    content = data.draw(
        st.sampled_from([csv(*GOOD).encode(), MT5_TABS.encode(), PROFIT.encode(), PROFIT.encode("cp1252")])
    )
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        pieces = st.sampled_from(
            [b"\n", b";", b",", b"\t", b'"', b"\x00", b"-", b"9", b"e9", b" ", b"\xff\xfe", b"nan", b"Z"]
        )
        content = content[:place] + data.draw(pieces) + content[place + data.draw(st.integers(0, 30)) :]
    try:
        bars = read(write(content))
    except BarsRefused:
        return
    assert (np.diff(bars.open_time) > 0).all()
    assert (bars.low <= bars.high).all()


@pytest.mark.parametrize("size", range(0, 300, 23))
def test_any_beginning_of_random_bytes_is_refused(write: Callable[[bytes], Path], size: int) -> None:
    with pytest.raises(BarsRefused):
        read(write(np.random.default_rng(size).bytes(size)))


def test_blank_lines_are_skipped_and_counted(write: Callable[[str], Path]) -> None:
    with pytest.raises(BadValue, match="line 5"):
        read(write(csv(GOOD[0], "", GOOD[1].replace("123900", "x"), GOOD[2]).replace(HEADER, "\n" + HEADER)))


def test_a_period_that_was_said_is_checked_against_the_bars(write: Callable[[str], Path]) -> None:
    with pytest.raises(WrongPeriod, match=r"line 3.*expected a bar of 5 min") as refused:
        read(write(csv(*GOOD)), period_min=5)
    assert "--period-min" in refused.value.remedy
    assert read(write(csv(GOOD[0], GOOD[2])), period_min=1).period_min == 1


def test_a_file_that_is_not_there_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat) as refused:
        read(tmp_path / "none.csv")
    assert str(tmp_path) not in str(refused.value)


def test_an_adjustment_that_is_none_of_the_three_is_refused(write: Callable[[str], Path]) -> None:
    with pytest.raises(BadValue, match="back"):
        read_bars(write(csv(*GOOD)), tz=SAO_PAULO, symbol="WIN", adjustment="back")  # type: ignore[arg-type]


def test_a_difference_adjusted_history_may_lie_below_zero(write: Callable[[str], Path]) -> None:
    path = write(csv("2024-12-30 09:00,-5,5,-10,0,1", "2024-12-30 09:01,0,5,-10,0,1"))
    assert read_bars(path, tz=SAO_PAULO, symbol="WIN", adjustment="difference").low.tolist() == [-10, -10]


@settings(derandomize=True, deadline=None)
@given(st.integers(min_value=0, max_value=10**9), st.integers(min_value=0, max_value=99))
def test_a_brazilian_number_is_read_as_it_was_written(whole: int, cents: int) -> None:
    grouped = f"{whole:,}".replace(",", ".")
    assert decimal_comma(grouped) == whole
    assert decimal_comma(f"{grouped},{cents:02d}") == pytest.approx(whole + cents / 100)


class TestParquet:
    """Rows are counted from 1; a null is not known, a NaN is wrong."""

    COLUMNS: ClassVar[dict[str, Any]] = {
        "ts": pa.array(np.array(["2024-12-30T09:00", "2024-12-30T09:01", "2024-12-30T09:02"], dtype="datetime64[us]")),
        "open": pa.array([124080.0, 123985.0, 123950.0]),
        "high": pa.array([124090.0, 124000.0, 124050.0]),
        "low": pa.array([123935.0, 123900.0, 123950.0]),
        "close": pa.array([123985, 123950, 124040]),
        "volume": pa.array([10, 20, 30]),
    }

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "bars.parquet"

    def put(self, path: Path, **changed: Any) -> Path:
        columns = {name: column for name, column in {**self.COLUMNS, **changed}.items() if column is not None}
        pq.write_table(pa.table(columns), path)
        return path

    def test_naive_times_need_a_zone(self, path: Path) -> None:
        same_as_good(read(self.put(path)))
        with pytest.raises(NaiveTimes, match="row 1"):
            read(path, tz=None)

    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    def test_times_with_a_zone_need_none(self, path: Path, unit: str) -> None:
        stamps = pa.array(
            [epoch(f"2024-12-30 09:0{m}") * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit] for m in range(3)]
        )
        same_as_good(read(self.put(path, ts=stamps.cast(pa.timestamp(unit, "UTC"))), tz=None))

    @pytest.mark.parametrize(
        ("changed", "kind", "says"),
        [
            ({"low": None}, WrongColumns, "missing: low"),
            ({"ts": pa.array(["a", "b", "c"])}, WrongColumns, "timestamp"),
            ({"low": pa.array(["a", "b", "c"])}, WrongColumns, "numbers as low"),
            ({"low": pa.array([123935.0, None, 123950.0])}, BadValue, "row 2: expected a low, found nothing"),
            ({"low": pa.array([123935.0, float("nan"), 123950.0])}, BadValue, "row 2 .*number as low"),
            ({"volume": pa.array([1.0, float("nan"), 1.0])}, BadValue, "row 2.*volume"),
            ({"volume": pa.array([1, -1, 1])}, BadValue, "row 2.*volume of 0 or more"),
            ({"ts": pa.array([60, 90, 120]).cast(pa.timestamp("s"))}, BadValue, "row 2.*whole minute"),
            ({"ts": pa.array([60, None, 120]).cast(pa.timestamp("s"))}, BadValue, "row 2.*time"),
        ],
    )  # fmt: skip
    def test_bad_input_is_refused_by_row(self, path: Path, changed: Any, kind: type[BarsRefused], says: str) -> None:
        with pytest.raises(kind, match=says):
            read(self.put(path, **changed))

    def test_a_null_volume_is_not_known(self, path: Path) -> None:
        assert np.isnan(read(self.put(path, volume=pa.array([1, None, 1]))).volume).tolist() == [False, True, False]


RATES = [
    ("time", "<i8"), ("open", "<f8"), ("high", "<f8"), ("low", "<f8"), ("close", "<f8"),
    ("tick_volume", "<u8"), ("spread", "<i4"), ("real_volume", "<u8"),
]  # fmt: skip


@dataclass
class FakeTerminal:
    """The package's functions as recorded of it: times are the server's wall clock counted as if it were UTC, ends included."""

    rates: np.ndarray[Any, Any]
    starts: bool = True
    known: tuple[str, ...] = ("WIN$N",)
    visible: bool = False
    selects: bool = True
    answers: bool = True
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    TIMEFRAME_M1 = 1
    TIMEFRAME_M5 = 5

    def initialize(self) -> bool:
        self.calls.append(("initialize",))
        return self.starts

    def shutdown(self) -> None:
        self.calls.append(("shutdown",))

    def last_error(self) -> tuple[int, str]:
        return (1, "Success") if self.starts and self.answers else (-10005, "IPC timeout")

    def symbol_info(self, symbol: str) -> Any:
        return SimpleNamespace(visible=self.visible, trade_tick_size=5.0) if symbol in self.known else None

    def symbol_select(self, symbol: str, enable: bool) -> bool:
        self.calls.append(("select", symbol, enable))
        return self.selects

    def copy_rates_range(self, symbol: str, timeframe: int, date_from: dt.datetime, date_to: dt.datetime) -> Any:
        assert date_from.tzinfo is dt.UTC
        self.calls.append(("rates", symbol, timeframe, date_from, date_to))
        if not self.answers:
            return None
        times = self.rates["time"]
        return self.rates[(times >= date_from.timestamp()) & (times <= date_to.timestamp())]


def rates(*times: str, server_hours: int = 0, real: int = 7) -> np.ndarray[Any, Any]:
    """Rates at Sao Paulo times, on the clock of a server that many hours ahead of Sao Paulo."""
    rows = [(epoch(t, "UTC") + 3600 * server_hours, 100.0, 110.0, 90.0, 105.0, 3, 1, real) for t in times]
    return np.array(rows, dtype=RATES)


def at(text: str, zone: str = SAO_PAULO) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


class TestTerminal:
    """The MetaTrader 5 adapter against a fake of its package."""

    MINUTES = tuple(f"2025-01-0{day} 09:0{minute}" for day in (2, 3) for minute in range(5))

    def ask(self, terminal: FakeTerminal, since: str = "2025-01-01", until: str = "2025-03-20", **more: Any) -> Bars:
        options: dict[str, Any] = {
            "period_min": 1, "server_tz": SAO_PAULO, "adjustment": "none", "clock": lambda: epoch("2025-06-01"),
        }  # fmt: skip
        options.update(more)
        return read_mt5("WIN$N", at(since), at(until), terminal=terminal, **options)

    def test_the_bars_of_all_pieces_are_joined_and_the_terminal_is_let_go(self) -> None:
        terminal = FakeTerminal(rates(*self.MINUTES, "2025-02-03 09:00", "2025-03-19 09:00"))
        bars = self.ask(terminal)
        assert len(bars) == 12
        assert bars.open_time[0] == epoch("2025-01-02 09:00")
        assert bars.sessions == ("2025-01-02", "2025-01-03", "2025-02-03", "2025-03-19")
        assert (bars.volume[0], bars.source, len(bars.sha256)) == (7, "MetaTrader5 WIN$N", 64)
        assert [call[0] for call in terminal.calls] == ["initialize", "select", "rates", "rates", "rates", "shutdown"]

    def test_the_clock_of_the_server_is_another_than_that_of_the_exchange(self) -> None:
        athens = FakeTerminal(rates(*self.MINUTES, server_hours=5))
        bars = self.ask(athens, server_tz="Europe/Athens")
        assert bars.open_time[0] == epoch("2025-01-02 09:00")
        assert (bars.minute[0], bars.tz) == (0, SAO_PAULO)

    def test_the_end_that_was_asked_for_is_not_in_it_and_the_start_is(self) -> None:
        bars = self.ask(FakeTerminal(rates(*self.MINUTES)), since="2025-01-02 09:01", until="2025-01-02 09:04")
        assert [int(minute) for minute in bars.minute] == [1, 2, 3]

    def test_a_bar_that_is_still_forming_is_left_out(self) -> None:
        terminal = FakeTerminal(rates(*self.MINUTES))
        assert len(self.ask(terminal, clock=lambda: epoch("2025-01-03 09:04") + 59)) == 9
        assert len(self.ask(terminal, clock=lambda: epoch("2025-01-03 09:04") + 60)) == 10

    def test_the_count_of_ticks_stands_in_for_a_volume_that_the_server_does_not_tell(self) -> None:
        assert self.ask(FakeTerminal(rates(*self.MINUTES, real=0))).volume[0] == 3

    @pytest.mark.parametrize(
        ("terminal", "says"),
        [
            (FakeTerminal(rates(), starts=False), "answers, found error -10005: IPC timeout"),
            (FakeTerminal(rates(), known=()), r"a symbol WIN\$N"),
            (FakeTerminal(rates(), selects=False), "Market Watch"),
            (FakeTerminal(rates(), answers=False), "bars from 2025-01-01 00:00"),
        ],
        ids=["no terminal", "no symbol", "not shown", "no history"],
    )
    def test_what_the_terminal_refuses_is_said_in_its_own_words_with_a_way_out(
        self, terminal: FakeTerminal, says: str
    ) -> None:
        with pytest.raises(TerminalFailed, match=says) as failed:
            self.ask(terminal)
        assert failed.value.remedy
        assert (("shutdown",) in terminal.calls) == terminal.starts

    def test_no_bars_at_all_are_too_few(self) -> None:
        with pytest.raises(TooFewBars):
            self.ask(FakeTerminal(rates()))

    def test_ends_without_a_zone_and_periods_that_it_has_not_are_refused(self) -> None:
        naive = dt.datetime(2025, 1, 1)  # noqa: DTZ001 - that is the point
        terminal = FakeTerminal(rates())
        with pytest.raises(NaiveTimes):
            read_mt5("WIN$N", naive, naive, period_min=1, server_tz=SAO_PAULO, adjustment="none", terminal=terminal)
        with pytest.raises(WrongPeriod, match="found 7"):
            self.ask(terminal, period_min=7)
        with pytest.raises(UnknownZone):
            self.ask(terminal, server_tz="Broker/Server")

    def test_without_the_package_the_error_says_where_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "MetaTrader5", None)
        with pytest.raises(TerminalFailed, match="MetaTrader5") as failed:
            load_terminal()
        assert "Windows" in failed.value.remedy

    def test_the_package_is_used_where_it_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "MetaTrader5", FakeTerminal(rates(*self.MINUTES)))
        bars = read_mt5(
            "WIN$N", at("2025-01-01"), at("2025-01-05"), period_min=1, server_tz=SAO_PAULO, adjustment="none"
        )
        assert len(bars) == 10

    def test_followed_bars_come_once_each_when_they_have_closed_and_count_their_sessions_on(self) -> None:
        terminal = FakeTerminal(rates(*self.MINUTES))
        now = [float(epoch("2025-01-02 09:03"))]

        def wait(_: float) -> None:
            now[0] += 30 if now[0] < epoch("2025-01-02 09:06") else 3600

        followed: Iterator[Any] = follow_mt5(
            "WIN$N",
            at("2025-01-02"),
            period_min=1,
            server_tz=SAO_PAULO,
            terminal=terminal,
            clock=lambda: now[0],
            sleep=wait,
        )
        seen = []
        for bar in islice(followed, 10):
            assert bar.close_time <= now[0]
            seen.append((bar.session, bar.minute))
        assert seen == [(day, minute) for day in (0, 1) for minute in range(5)]
        followed.close()  # type: ignore[attr-defined]
        assert terminal.calls[-1] == ("shutdown",)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real bars for development are not here")
class TestRealBars:
    """The development files, which are not part of the project."""

    @pytest.mark.parametrize(
        ("name", "rows", "sessions", "period_min", "adjustment"),
        [
            ("WINN_M1_2015.mt5.csv", 50_911, 95, 1, "none"),
            ("WINN_M1_2015.parquet", 50_911, 95, 1, "none"),
            ("WIN_M1_2025.parquet", 60_771, 109, 1, "proportional"),
            ("WIN_M5_2021_22.parquet", 20_001, 183, 5, "none"),
            ("WIN_M5_2025H1.parquet", 7_636, 68, 5, "difference"),
        ],
    )
    def test_every_bar_is_read(self, name: str, rows: int, sessions: int, period_min: int, adjustment: Any) -> None:
        bars = read_bars(REAL / name, tz=SAO_PAULO, symbol="WIN", adjustment=adjustment)
        assert (len(bars), len(bars.sessions), bars.period_min) == (rows, sessions, period_min)

    def test_the_export_of_the_terminal_and_the_parquet_file_hold_the_same_bars(self) -> None:
        one, other = (read(REAL / name) for name in ("WINN_M1_2015.mt5.csv", "WINN_M1_2015.parquet"))
        for name in ("open_time", "open", "high", "low", "close", "volume", "session", "minute"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
