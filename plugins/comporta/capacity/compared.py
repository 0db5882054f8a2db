"""A forecast beside what production then showed, as records: what a ``calibrated`` event holds."""

from __future__ import annotations

from datetime import date, datetime
from statistics import median

from comporta.capacity.model import Record


class Compared(Record):
    """One number: as it was predicted (with the 80 % interval, where there was one), and as it was found. Errors are relative."""

    what: str
    subject: str
    unit: str
    predicted: float
    low: float | None
    high: float | None
    measured: float
    note: str = ""

    @property
    def error(self) -> float | None:
        """How far the prediction was off, 0.1 = 10 % of what was measured; None where zero was measured and not predicted."""
        if self.measured:
            return abs(self.predicted - self.measured) / abs(self.measured)
        return 0.0 if not self.predicted else None

    @property
    def inside(self) -> bool | None:
        """Whether the interval held it; None where none was stated."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.measured <= self.high

    def cells(self) -> tuple[str, str, str, str, str]:
        """As a line of a table: what, predicted, 80 % interval, measured, error."""
        told = f"{self.low:.4g} .. {self.high:.4g}" if self.low is not None and self.high is not None else "none stated"
        error = "" if self.error is None else f"{self.error:.1%}"
        of = f"{self.what}, {self.subject}" if self.subject else self.what
        return of, f"{self.predicted:.4g} {self.unit}".rstrip(), told, f"{self.measured:.4g}", error


class NotCompared(Record):
    """What was not compared, and why: no data is not a good forecast."""

    what: str
    why: str


class Calibration(Record):
    """A forecast held against production: ``run`` is that of the capacity plan, ``rollout`` the event that ended the rollout."""

    run: str
    forecast_on: date
    report: str
    rollout: int
    rolled_out_at: datetime
    at: datetime
    items: tuple[Compared, ...]
    not_compared: tuple[NotCompared, ...] = ()

    @property
    def median_error(self) -> float | None:
        """The middle one of the errors; None when nothing could be compared."""
        errors = [each.error for each in self.items if each.error is not None]
        return median(errors) if errors else None

    @property
    def inside(self) -> tuple[int, int]:
        """How many of the stated intervals held what was measured, and of how many."""
        told = [each.inside for each in self.items if each.inside is not None]
        return sum(told), len(told)

    @property
    def sentence(self) -> str:
        """In one line, for the first page of the next report."""
        error, (held, stated) = self.median_error, self.inside
        if error is None:
            return f"The forecast of {self.forecast_on} could not be compared with production."
        return (
            f"The forecast of {self.forecast_on} was off by {error:.0%} in the median of {len(self.items)} numbers; "
            f"{held} of {stated} stated 80 % intervals held what production showed on {self.at:%Y-%m-%d}."
        )
