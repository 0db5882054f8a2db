"""After a rollout: the forecast that it rested on, held against what production shows; recorded, and told by the next report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from statistics import median

from pydantic import ValidationError

from comporta.capacity.compared import Calibration, Compared, NotCompared
from comporta.capacity.model import BEFORE, Forecast, Mix, RungResult, Series, TargetFacts
from comporta.capacity.production import Production, look_at_production
from comporta.errors import ComportaError
from comporta.health.baseline import Baseline
from comporta.ledger import Event, EventType, Ledger, NewEvent
from comporta.ledger.errors import IdempotencyConflict
from comporta.postgres.connection import connect
from comporta.release.model import Release
from comporta.reports.folder import RunFolder
from comporta.rollout.standing import Board, State
from comporta.rollout.target import identity
from comporta.settings import Settings

WORKFLOW = "stage4"
_MONTH = timedelta(days=30)
_DAY_S = 86_400
_FEWEST_CALLS = 20
_LOOKED_BACK = 50
_AGES = (timedelta(days=7), timedelta(days=30))
_QUARTER = timedelta(days=91)
Look = Callable[[Settings, Release, str, datetime], Production]
Found = Compared | NotCompared


class CalibrationError(ComportaError):
    """A forecast cannot be compared with production yet, or there is none; nothing was recorded."""


class NotDue(CalibrationError):
    """The forecast was compared not long ago."""


@dataclass(frozen=True)
class RolledOut:
    """A rollout that is whole: the event that ended it, when, and the event before which a forecast must have been made."""

    finished: int
    at: datetime
    began: int


@dataclass(frozen=True)
class Predicted:
    """What a run of STAGE 4 left in its folder, as far as production can be held against it."""

    forecast: Forecast
    target: TargetFacts
    mix: Mix
    rungs: tuple[RungResult, ...]
    release: str
    canaries_p95_ms: float | None = None
    """Of the last baseline before the rollout."""


def calibrate(
    settings: Settings,
    release: Release,
    *,
    actor: str,
    now: datetime | None = None,
    look: Look = look_at_production,
) -> Calibration:
    """Compare the last forecast before the rollout with what production shows, and record it; the target is only read.

    CalibrationError before the release stands as a whole, and where nothing was forecast. The same rollout on the same day is not
    compared twice: what was recorded is returned.
    """
    at = now or datetime.now(UTC)
    with connect(settings.require("target"), name="comporta/capacity") as conn:
        target = identity(conn)
    with Ledger(settings.require("control")) as ledger:
        rolled_out = _rolled_out(ledger, release, target)
        planned = _planned(ledger, release, rolled_out)
        if (before := _recorded(ledger, planned.stream, rolled_out, at)) is not None:
            return before
        predicted = _predicted(settings, planned, release, _baseline(ledger, release, target, rolled_out))
        items, missing = compare(predicted, look(settings, release, target, rolled_out.at), at.date())
        made = Calibration(
            run=planned.stream.partition("/")[2],
            forecast_on=predicted.forecast.now,
            report=str(planned.payload.get("report") or ""),
            rollout=rolled_out.finished,
            rolled_out_at=rolled_out.at,
            at=at,
            items=items,
            not_compared=missing,
        )
        return _record(ledger, planned.stream, release, made, actor)


def calibrate_when_due(
    settings: Settings, release: Release, *, actor: str, now: datetime | None = None, look: Look = look_at_production
) -> Calibration:
    """Compare when the rollout is a day's work old, a week, a month, and then every quarter: growth cannot be wrong on day one.

    CalibrationError says why there is nothing to compare now, NotDue when the next look is.
    """
    at = now or datetime.now(UTC)
    with connect(settings.require("target"), name="comporta/capacity") as conn:
        target = identity(conn)
    with Ledger(settings.require("control")) as ledger:
        rolled_out = _rolled_out(ledger, release, target)
        stream = _planned(ledger, release, rolled_out).stream
        events = ledger.latest(_LOOKED_BACK, stream=stream, event_type=EventType.CALIBRATED)
    looks = [made.at for event in events if (made := _parsed(event)) and made.rollout == rolled_out.finished]
    due = next_look(rolled_out.at, looks)
    if at < due:
        raise NotDue(f"compared last on {max(looks):%Y-%m-%d}: the next look is due on {due:%Y-%m-%d}")
    return calibrate(settings, release, actor=actor, now=at, look=look)


def next_look(rolled_out_at: datetime, looks: Sequence[datetime]) -> datetime:
    """When the forecast is to be compared next: at once, after a week, after a month, and then every quarter."""
    last = max(looks, default=None)
    if last is None:
        return rolled_out_at
    for age in _AGES:
        if last < rolled_out_at + age:
            return rolled_out_at + age
    quarters = (last - rolled_out_at - _AGES[-1]) // _QUARTER + 1
    return rolled_out_at + _AGES[-1] + quarters * _QUARTER


def last_calibration(control_dsn: str, release: str) -> Calibration | None:
    """How the last forecast of a release did, for the next report; None when none was compared."""
    with Ledger(control_dsn) as ledger:
        events = ledger.latest(_LOOKED_BACK, event_type=EventType.CALIBRATED)
    return next((made for event in reversed(events) if event.feature == release and (made := _parsed(event))), None)


# -- the ledger ----------------------------------------------------------------------------------------------------------


def whole_rollout(events: Iterable[Event], changes: Sequence[str], target: str) -> RolledOut | None:
    """The rollout by which every change is in place on ``target``; None while any is not, or its end is not recorded."""
    board = Board.fold((), changes, target)
    began, finished = 0, None
    for event in events:
        if event.payload.get("target") != target:
            continue
        if event.event_type == EventType.ROLLOUT_APPLY_STARTED and not board.standing:
            began, finished = event.id, None
        board = board.after(event)
        if not _all_in_place(board):
            finished = None
        elif event.event_type == EventType.ROLLOUT_FINISHED:
            finished = finished or event  # later runs that found all in place did not end it anew
    return RolledOut(finished.id, finished.timestamp, began) if finished and _all_in_place(board) else None


def _all_in_place(board: Board) -> bool:
    return all(each.state == State.IN_PLACE for each in board.standings.values())


def _rolled_out(ledger: Ledger, release: Release, target: str) -> RolledOut:
    events = ledger.every(stream=f"rollout/{release.name}")
    found = whole_rollout(events, [change.name for change in release.changes], target)
    if found is None:
        raise CalibrationError(
            f"{release.name} is not rolled out on {target}: not every change is in place, or the rollout has not ended",
            remedy="Finish the rollout first (comporta rollout); then compare: comporta capacity calibrate.",
        )
    return found


def _planned(ledger: Ledger, release: Release, rolled_out: RolledOut) -> Event:
    events = ledger.latest(_LOOKED_BACK, event_type=EventType.CAPACITY_PLANNED)
    for event in reversed(events):
        if event.feature == release.name and event.id < rolled_out.began:
            return event
    raise CalibrationError(
        f"no capacity plan of {release.name} was recorded before its rollout began: there is nothing to compare",
        remedy="Run STAGE 4 before a rollout (comporta capacity); this one cannot be compared afterwards.",
    )


def _baseline(ledger: Ledger, release: Release, target: str, rolled_out: RolledOut) -> Baseline | None:
    taken = ledger.latest(_LOOKED_BACK, stream=f"health/{release.name}", event_type=EventType.HEALTH_BASELINE_TAKEN)
    for event in reversed(taken):
        if event.id < rolled_out.began and event.payload.get("target") == target:
            return Baseline.parse(event.payload, event.id)
    return None


def _predicted(settings: Settings, planned: Event, release: Release, baseline: Baseline | None) -> Predicted:
    folder = RunFolder(settings.archives_path / str(planned.payload.get("folder")))
    return Predicted(
        forecast=Forecast.from_dict(folder.read("forecast")),
        target=TargetFacts.from_dict(folder.read("target")),
        mix=Mix.from_dict(folder.read("mix")),
        rungs=tuple(RungResult.from_dict(folder.read(file.stem)) for file in sorted(folder.path.glob("rung-*.json"))),
        release=release.changes[-1].name,
        canaries_p95_ms=baseline.signals.get("latency") if baseline else None,
    )


def _recorded(ledger: Ledger, stream: str, rolled_out: RolledOut, at: datetime) -> Calibration | None:
    """What was recorded of this rollout on this day."""
    for event in reversed(ledger.latest(_LOOKED_BACK, stream=stream, event_type=EventType.CALIBRATED)):
        made = _parsed(event)
        if made and made.rollout == rolled_out.finished and made.at.astimezone(UTC).date() == at.astimezone(UTC).date():
            return made
    return None


def _record(ledger: Ledger, stream: str, release: Release, made: Calibration, actor: str) -> Calibration:
    event = NewEvent(
        event_type=EventType.CALIBRATED,
        feature=release.name,
        workflow=WORKFLOW,
        actor=actor,
        payload={**made.to_dict(), "median_error": made.median_error, "inside": list(made.inside)},
        idempotency_key=f"{stream}/calibrated/{made.rollout}/{made.at.astimezone(UTC):%Y-%m-%d}",
    )
    try:
        ledger.append(stream, [event])
    except IdempotencyConflict:  # somebody else compared at the same time
        recorded = _recorded(ledger, stream, RolledOut(made.rollout, made.rolled_out_at, 0), made.at)
        return recorded or made
    return made


def _parsed(event: Event) -> Calibration | None:
    """None for one that a later version wrote in another form."""
    known = {name: value for name, value in event.payload.items() if name in Calibration.model_fields}
    try:
        return Calibration.from_dict(known)
    except ValidationError:
        return None


# -- the comparison, pure ------------------------------------------------------------------------------------------------


def compare(predicted: Predicted, found: Production, day: date) -> tuple[tuple[Compared, ...], tuple[NotCompared, ...]]:
    """Every number that was forecast and can be found again, as it was predicted for ``day`` and as it is."""
    results = list(_compare(predicted, found, day))
    return (
        tuple(each for each in results if isinstance(each, Compared)),
        tuple(each for each in results if isinstance(each, NotCompared)),
    )


def _compare(predicted: Predicted, found: Production, day: date) -> Iterator[Found]:
    yield from _rows(predicted, found, day)
    yield from _bytes(predicted, found, day)
    for what, plot, names, value, unit, note in (
        ("WAL", "wal", (predicted.release,), _a_day(found.target.wal_bytes_per_s), "bytes a day", _WAL),
        ("connections", "connections", ("peak", "connections"), found.target.connections_peak, "connections", _MOST),
        ("refresh", "refresh", None, found.refresh_s, "s", "the middle one of the scheduled runs that had work to do"),
    ):
        series = _series(predicted, plot, names)
        yield _held(what, "" if names else _subject(series), unit, series, value, day, note)
    yield from _transactions(predicted, found)
    yield _canaries(predicted, found)


_WAL = "the mean since the server's counters began, the rollout itself may be in it"
_MOST = "the most that were seen since the rollout"


def _rows(predicted: Predicted, found: Production, day: date) -> Iterator[Found]:
    for history in found.target.histories:
        series = _series(predicted, "rows", (history.table,))
        yield _held("rows", history.table, "rows", series, history.rows, day)
        months: dict[date, int] = {}
        for count in history.months:
            months[count.month] = months.get(count.month, 0) + count.rows
        over = [month for month in months if (month.year, month.month) < (history.until.year, history.until.month)]
        if series is None or not over:
            yield NotCompared(what=f"growth a month, {history.table}", why="no month of it is over, or no forecast")
            continue
        last = max(over)
        start = max(last, predicted.forecast.now)
        grown = _at(series.x, series.value, start + _MONTH), _at(series.x, series.value, start)
        if grown[0] is None or grown[1] is None:
            yield NotCompared(what=f"growth a month, {history.table}", why="the forecast does not reach so far")
            continue
        days = (_next_month(last) - last).days
        early = "; that month was over before the forecast" if _next_month(last) <= predicted.forecast.now else ""
        yield Compared(
            what="growth a month",
            subject=history.table,
            unit="rows",
            predicted=(grown[0] - grown[1]) / _MONTH.days * days,
            low=None,
            high=None,
            measured=months[last],
            note=f"{last:%Y-%m}, the last month that is over{early}",
        )


def _bytes(predicted: Predicted, found: Production, day: date) -> Iterator[Found]:
    sizes: dict[str, int] = {"database": found.target.database_bytes}
    for relation in found.target.relations:
        name = f"{relation.table} {relation.kind}"
        sizes[name] = sizes.get(name, 0) + relation.bytes
    for series in predicted.forecast.series.get("bytes", ()):
        yield _held("bytes", series.name, "bytes", series, sizes.get(series.name), day)
    total, free = found.target.disk_total_bytes, found.target.disk_free_bytes
    used = total - free if total is not None and free is not None else None
    yield _held("disk in use", "", "bytes", _series(predicted, "disk", (predicted.release,)), used, day)


def _held(
    what: str, subject: str, unit: str, series: Series | None, value: float | None, day: date, note: str = ""
) -> Found:
    name = f"{what}, {subject}" if subject else what
    if series is None:
        return NotCompared(what=name, why="it was not forecast")
    if value is None:
        return NotCompared(what=name, why="production does not tell")
    middle, low, high = (_at(series.x, values, day) for values in (series.value, series.low, series.high))
    if middle is None:
        return NotCompared(what=name, why="the forecast does not reach so far")
    return Compared(
        what=what, subject=subject, unit=unit, predicted=middle, low=low, high=high, measured=value, note=note
    )


def _transactions(predicted: Predicted, found: Production) -> Iterator[Found]:
    """Means of each kind of transaction: what production took before, times what the release changed on the shadow.

    pg_stat_statements knows means only, so that means are compared, not percentiles.
    """
    if not (predicted.mix.recorded and found.mix.recorded):
        yield NotCompared(what="mean of the transactions", why="production recorded no load before, or none since")
        return
    before = {each.name: each for each in predicted.mix.transactions}
    for now in found.mix.transactions:
        then = before.get(now.name)
        if then is None or not then.calls:
            continue
        kept_on = now.calls >= then.calls and found.mix.since == predicted.mix.since
        calls = now.calls - then.calls if kept_on else now.calls
        ratios = _ratios(predicted, lambda rung, name=now.name: _mean_of(rung, name))  # type: ignore[misc]
        if calls < _FEWEST_CALLS or not ratios:
            why = f"{calls} calls since" if ratios else "it was not measured both before and after the release"
            yield NotCompared(what=f"mean, {now.name}", why=why)
            continue
        spent = now.calls * now.mean_ms - (then.calls * then.mean_ms if kept_on else 0)
        yield Compared(
            what="mean",
            subject=now.name,
            unit="ms",
            predicted=then.mean_ms * median(ratios),
            low=then.mean_ms * min(ratios),
            high=then.mean_ms * max(ratios),
            measured=spent / calls,
            note=f"means, of {calls} calls since the forecast: pg_stat_statements knows no percentiles",
        )


def _canaries(predicted: Predicted, found: Production) -> Found:
    what = "p95 of the canaries"
    if predicted.canaries_p95_ms is None or found.canaries_p95_ms is None:
        return NotCompared(what=what, why="no baseline before the rollout, or no sample since")
    ratios = _ratios(predicted, lambda rung: rung.latency.p95_ms)
    if not ratios:
        return NotCompared(what=what, why="no rung was measured both before and after the release")
    return Compared(
        what=what,
        subject="",
        unit="ms",
        predicted=predicted.canaries_p95_ms * median(ratios),
        low=predicted.canaries_p95_ms * min(ratios),
        high=predicted.canaries_p95_ms * max(ratios),
        measured=found.canaries_p95_ms,
        note="the baseline before the rollout times the change of the load's p95: the canaries are other queries than the load's",
    )


def _ratios(predicted: Predicted, of: Callable[[RungResult], float | None]) -> list[float]:
    """After over before, at the size of then, of every rung that was climbed in both states."""
    values: dict[tuple[str, int, int], float] = {}
    for rung in predicted.rungs:
        value = of(rung)
        if rung.size == 1 and value:
            values[(rung.state, rung.clients, rung.round)] = value
    return [
        value / values[(BEFORE, clients, nth)]
        for (state, clients, nth), value in values.items()
        if state == predicted.release and (BEFORE, clients, nth) in values
    ]


def _mean_of(rung: RungResult, name: str) -> float | None:
    found = rung.by_transaction.get(name)
    return found.mean_ms if found else None


def _series(predicted: Predicted, plot: str, names: Sequence[str] | None) -> Series | None:
    """The line of one of these names; of any name, the one of the release."""
    lines: Mapping[str, Series] = {each.name: each for each in predicted.forecast.series.get(plot, ())}
    if names is not None:
        return next((lines[name] for name in names if name in lines), None)
    its = [line for name, line in lines.items() if name.endswith(predicted.release)]
    return its[0] if len(its) == 1 else None


def _subject(series: Series | None) -> str:
    return series.name.partition(" · ")[0] if series else ""


def _at(x: Sequence[str | float], values: Sequence[float | None], day: date) -> float | None:
    """The value of a line on a day, straight between its points; None outside of it, and where a point has none."""
    known = [(date.fromisoformat(str(at)), value) for at, value in zip(x, values, strict=True)]
    for (start, low), (end, high) in pairwise(known):
        if start <= day <= end and low is not None and high is not None:
            return low + (high - low) * ((day - start).days / max((end - start).days, 1))
    return None


def _next_month(month: date) -> date:
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def _a_day(per_s: float | None) -> float | None:
    return None if per_s is None else per_s * _DAY_S
