"""How well alerts found what was there: capture, false positives, and what lies behind the two numbers.

Every alert counts; the evaluator merges none of them afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comporta.detector.alert import Alert
from comporta.detector.intervals import Interval, by_session, wilson
from comporta.detector.settings import DetectorSettings, TruthSettings
from comporta.detector.truth import Episode, Truth


@dataclass(frozen=True, slots=True)
class Rate:
    """``hits`` of ``n``, with Wilson's interval and the one over whole sessions; without anything counted they are None."""

    hits: int
    n: int
    interval: Interval | None
    interval_by_session: Interval | None

    @property
    def value(self) -> float | None:
        """hits / n, None of nothing."""
        return self.hits / self.n if self.n else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "hits": self.hits,
            "n": self.n,
            "value": self.value,
            "interval": list(self.interval) if self.interval else None,
            "interval_by_session": list(self.interval_by_session) if self.interval_by_session else None,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """One opportunity and what became of it: ``captured``, ``late`` (alerted after the window, before its end) or ``missed``.

    ``delay_min`` is from the onset to the first alert of the window, negative when the alert came first; None when missed.
    """

    opportunity: Episode
    outcome: str
    delay_min: float | None


@dataclass(frozen=True, slots=True)
class SessionCount:
    """What one scored session counted."""

    captured: int
    opportunities: int
    false: int
    alerts: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class Detection:
    """The score of one alerter over one set of bars, or over several that were added up."""

    capture: Rate
    false_positives: Rate
    findings: tuple[Finding, ...]
    alerts: tuple[Alert, ...]
    """The alerts that counted: those of the scored sessions, in order of time."""
    false: tuple[bool, ...]
    """For each of ``alerts``, whether it was false."""
    sessions: tuple[SessionCount, ...]

    @property
    def late(self) -> int:
        """Opportunities whose first alert came after the window, while they lasted."""
        return sum(finding.outcome == "late" for finding in self.findings)

    @property
    def duplicates(self) -> int:
        """Alerts in a zone that had been alerted before."""
        return sum(session.duplicates for session in self.sessions)

    @property
    def delays_min(self) -> list[float]:
        """The delays of the captured opportunities, in order of time."""
        return [finding.delay_min for finding in self.findings if finding.delay_min is not None]

    def by_hour(self, settings: DetectorSettings) -> dict[int, tuple[int, int]]:
        """Captured, and all, opportunities by the local hour of their onset."""
        hours, minutes = settings.market.session_start.split(":")
        start = int(hours) * 60 + int(minutes)
        found: dict[int, tuple[int, int]] = {}
        for finding in self.findings:
            hour = (start + finding.opportunity.minute) // 60
            captured, n = found.get(hour, (0, 0))
            found[hour] = captured + (finding.outcome == "captured"), n + 1
        return dict(sorted(found.items()))

    def to_dict(self, settings: DetectorSettings) -> dict[str, Any]:
        """Plain JSON values: the numbers, no single alert."""
        delays = self.delays_min
        return {
            "capture": self.capture.to_dict(),
            "false_positives": self.false_positives.to_dict(),
            "sessions": len(self.sessions),
            "alerts": len(self.alerts),
            "alerts_per_session": len(self.alerts) / len(self.sessions) if self.sessions else None,
            "duplicates": self.duplicates,
            "late": self.late,
            "delay_min": {f"p{p}": float(np.percentile(delays, p)) for p in (5, 50, 95)} if delays else None,
            "capture_by_hour": {str(hour): list(counts) for hour, counts in self.by_hour(settings).items()},
        }


def score(truth: Truth, alerts: Iterable[Alert], settings: DetectorSettings) -> Detection:
    """The score of ``alerts`` against ``truth``. An alert of a session that is not scored does not count."""
    rule = settings.truth
    alerts_of: dict[int, list[Alert]] = {session: [] for session in truth.sessions}
    for alert in sorted(alerts, key=lambda alert: alert.time):
        if alert.session in alerts_of:
            alerts_of[alert.session].append(alert)
    findings: list[Finding] = []
    counted: list[Alert] = []
    false: list[bool] = []
    counts: list[SessionCount] = []
    for session, here in alerts_of.items():
        times = np.array([alert.time for alert in here], dtype=np.int64)
        found = [_finding(each, times, rule) for each in truth.opportunities if each.session == session]
        zones = [_around(zone, times, rule) for zone in truth.zones if zone.session == session]
        outside = ~np.any(zones, axis=0) if zones else np.ones(len(here), dtype=bool)
        findings += found
        counted += here
        false += outside.tolist()
        counts.append(
            SessionCount(
                captured=sum(finding.outcome == "captured" for finding in found),
                opportunities=len(found),
                false=int(outside.sum()),
                alerts=len(here),
                duplicates=sum(max(0, int(zone.sum()) - 1) for zone in zones),
            )
        )
    return _detection(findings, counted, false, counts, settings)


def pooled(parts: Sequence[Detection], settings: DetectorSettings) -> Detection:
    """Several sets of bars as one: every event weighs the same, and sessions are drawn from all of them together."""
    return _detection(
        [finding for part in parts for finding in part.findings],
        [alert for part in parts for alert in part.alerts],
        [each for part in parts for each in part.false],
        [count for part in parts for count in part.sessions],
        settings,
    )


def rate_of(totals: Sequence[tuple[int, int]], settings: DetectorSettings) -> Rate:
    """The rate whose hits and n each session adds to, with both intervals."""
    gates = settings.gates
    hits, n = sum(hits for hits, _ in totals), sum(n for _, n in totals)
    return Rate(
        hits,
        n,
        wilson(hits, n, confidence=gates.confidence),
        by_session(totals, confidence=gates.confidence, draws=gates.bootstrap_draws, seed=settings.seed),
    )


def _detection(
    findings: list[Finding],
    alerts: list[Alert],
    false: list[bool],
    sessions: list[SessionCount],
    settings: DetectorSettings,
) -> Detection:
    return Detection(
        capture=rate_of([(each.captured, each.opportunities) for each in sessions], settings),
        false_positives=rate_of([(each.false, each.alerts) for each in sessions], settings),
        findings=tuple(findings),
        alerts=tuple(alerts),
        false=tuple(false),
        sessions=tuple(sessions),
    )


def _finding(opportunity: Episode, times: NDArray[np.int64], rule: TruthSettings) -> Finding:
    """What became of ``opportunity``, given the times of its session's alerts."""
    onset, closed = opportunity.start, opportunity.start + 60 * rule.capture_after_min
    window = times[(times >= onset - 60 * rule.capture_before_min) & (times <= closed)]
    if len(window):
        return Finding(opportunity, "captured", float(window[0] - onset) / 60)
    late = bool(np.any((times > closed) & (times <= opportunity.end)))
    return Finding(opportunity, "late" if late else "missed", None)


def _around(zone: Episode, times: NDArray[np.int64], rule: TruthSettings) -> NDArray[np.bool_]:
    """Which of ``times`` ``zone`` speaks free."""
    return (times >= zone.start - 60 * rule.zone_before_min) & (times <= zone.end)
