"""What live traffic felt while a script ran: stalls, failed operations, and the shape of latency before, during and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from comporta.demo.operations import SLOW_KINDS
from comporta.demo.record import Operation, TrafficRecord
from comporta.dryrun.hazards import Hazard
from comporta.release.model import Budget

POINTS = 1500
SEEN_OFTEN = 5


def summarise(record: TrafficRecord, window: tuple[float, float]) -> dict[str, Any]:
    """Numbers and plot points of one traffic record around ``window`` (server epoch seconds: begin and end of the script).

    Latencies are in seconds. A stall is what an operation that overlaps the window took beyond the median of its kind
    outside of it. A kind whose time depends on what is asked (``SLOW_KINDS``: searches) is told in ``slow_by_themselves``, with
    its median and maximum, and not judged; waits behind the script's locks are seen by the trace all the same. None means
    that no operation overlapped.
    ``generator_lag`` is the longest that the traffic itself was late; a stall near it says little.
    """
    begin, end = window
    operations = record.operations
    usual = _usual(operations, begin, end)
    during = [each for each in operations if each.at + each.seconds >= begin and each.at <= end]
    judged = [each for each in during if each.kind not in SLOW_KINDS]
    failed = [each for each in operations if each.error]
    return {
        "operations": len(operations),
        "failed": len(failed),
        "errors": sorted({str(each.error) for each in failed})[:20],
        "acknowledged_writes": len(record.acknowledged),
        "generator_lag": record.longest_lag_s,
        "slow_by_themselves": _slow_by_themselves(operations),
        "longest_stall": _longest(judged, usual),
        "longest_read_stall": _longest([each for each in judged if not each.is_write], usual),
        "longest_write_stall": _longest([each for each in judged if each.is_write], usual),
        "phases": {
            "before": _percentiles([each for each in operations if each.at + each.seconds < begin]),
            "during": _percentiles(during),
            "after": _percentiles([each for each in operations if each.at > end]),
        },
        "points": _points(operations, begin),
    }


def harm_hazards(run: Mapping[str, Any]) -> list[Hazard]:
    """Lost writes and failed operations beside one script, apply or verify: a measurement's ``to_dict`` with its traffic."""
    traffic, found = run["traffic"], []
    if run["lost_writes"]:
        found.append(
            Hazard(
                "F01",
                "Acknowledged writes lost",
                "stop",
                "live traffic",
                0,
                f"{len(run['lost_writes'])} of {traffic['acknowledged_writes']} writes, first: {run['lost_writes'][0]}",
                "A copy missed changes: log them while it is made, and replay the log before the swap.",
            )
        )
    if traffic["failed"]:
        found.append(
            Hazard(
                "F02",
                "Operations of live traffic failed",
                "stop",
                "live traffic",
                0,
                f"{traffic['failed']} of {traffic['operations']} operations, such as {traffic['errors'][0]}",
                "Keep names, columns and rights as callers know them throughout the change.",
            )
        )
    return found


def felt_hazards(run: Mapping[str, Any], budget: Budget) -> list[Hazard]:
    """What people would have felt: lost writes, failed operations, stalls; and silence, which is not good news.

    ``run`` is the record of an apply: a measurement's ``to_dict`` with ``traffic`` and ``lost_writes``.
    """
    found = harm_hazards(run)
    longest, wait = run["traffic"]["longest_stall"], run["longest_wait_caused"]
    if longest is None:
        found.append(
            Hazard(
                "F03",
                "No live traffic during the change",
                "warn",
                "live traffic",
                0,
                "no operation overlapped the script, so nothing is known about stalls",
                "Set dry_run.reads_per_s and writes_per_s in the release, or lengthen settle_s.",
            )
        )
    elif longest["seconds"] * 1000 > budget.longest_stall_ms:
        waited = wait["seconds"] * 1000 if wait else 0.0
        found.append(
            Hazard(
                "F04",
                "Longest stall over the budget",
                "stop" if waited > budget.longest_stall_ms else "warn",
                longest["kind"],
                0,
                f"{longest['seconds'] * 1000:.0f} ms, budget {budget.longest_stall_ms} ms; "
                f"of it at most {waited:.0f} ms behind a lock of this script",
                "Behind a lock: shorten what is done under it. Otherwise: smaller batches, or a quieter hour.",
            )
        )
    return found


def _slow_by_themselves(operations: Sequence[Operation]) -> dict[str, dict[str, float]]:
    kinds: dict[str, list[float]] = {}
    for each in operations:
        if each.kind in SLOW_KINDS:
            kinds.setdefault(each.kind, []).append(each.seconds)
    return {
        kind: {"n": len(seconds), "median": float(np.median(seconds)), "max": max(seconds)}
        for kind, seconds in kinds.items()
    }


def _usual(operations: Sequence[Operation], begin: float, end: float) -> dict[str, float]:
    """Median seconds of each kind outside the window; of a kind seen there too seldom, its fastest in the whole record.

    Of a kind that ran once nothing is usual, so that its whole time counts: a median would be the stall itself.
    """
    outside: dict[str, list[float]] = {}
    everywhere: dict[str, list[float]] = {}
    for each in operations:
        everywhere.setdefault(each.kind, []).append(each.seconds)
        if each.ended < begin or each.at > end:
            outside.setdefault(each.kind, []).append(each.seconds)
    return {
        kind: float(np.median(outside[kind]))
        if len(outside.get(kind, ())) >= SEEN_OFTEN
        else (min(seconds) if len(seconds) > 1 else 0.0)
        for kind, seconds in everywhere.items()
    }


def _longest(operations: Sequence[Operation], usual: Mapping[str, float]) -> dict[str, Any] | None:
    if not operations:
        return None
    worst = max(operations, key=lambda each: each.seconds - usual[each.kind])
    stall = max(0.0, worst.seconds - usual[worst.kind])
    return {
        "seconds": stall,
        "kind": worst.kind,
        "at": worst.at,
        "whole_seconds": worst.seconds,
        "usual_seconds": usual[worst.kind],
    }


def _percentiles(operations: Sequence[Operation]) -> dict[str, Any]:
    """n, p50, p95, p99 and maximum of reads and of writes; None where there is no data."""
    result: dict[str, Any] = {}
    for name, is_write in (("read", False), ("write", True)):
        seconds = np.array([each.seconds for each in operations if each.is_write is is_write])
        if not seconds.size:
            result[name] = None
            continue
        p50, p95, p99 = (float(value) for value in np.percentile(seconds, (50, 95, 99)))
        result[name] = {"n": int(seconds.size), "p50": p50, "p95": p95, "p99": p99, "max": float(seconds.max())}
    return result


def _points(operations: Sequence[Operation], begin: float) -> list[list[Any]]:
    """[seconds since ``begin``, milliseconds, kind, is_write] of the slowest and of an even sample of the rest."""
    by_latency = sorted(operations, key=lambda each: each.seconds, reverse=True)
    slowest, rest = by_latency[: POINTS // 3], by_latency[POINTS // 3 :]
    step = max(1, len(rest) // (POINTS * 2 // 3))
    chosen = sorted([*slowest, *rest[::step]], key=lambda each: each.at)
    return [[round(each.at - begin, 4), round(each.seconds * 1000, 3), each.kind, each.is_write] for each in chosen]
