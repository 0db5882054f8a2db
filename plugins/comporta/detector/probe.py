"""A process of its own that does what the live one does, and says how long each bar took it and how much memory it needed.

``python -m comporta.detector.probe BARS.npz SETTINGS.json`` prints JSON. It imports the light part only: what it weighs is what the
process that watches the market weighs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from comporta.detector.bars import COLUMNS, Bar, Bars
from comporta.detector.processor import processador_bdi
from comporta.detector.settings import DetectorSettings


def open_bars(file: str, meta: dict[str, Any]) -> Bars:
    """Bars as ``save_bars`` left them; ``meta`` has the fields that are no columns."""
    with np.load(file) as columns:
        return Bars(**{name: columns[name] for name in COLUMNS}, **meta | {"sessions": tuple(meta["sessions"])})


def save_bars(file: str, bars: Bars) -> dict[str, Any]:
    """Write the columns of ``bars``, and return the rest as plain values."""
    np.savez(file, **{name: getattr(bars, name) for name in COLUMNS})
    rest = ("period_min", "tz", "symbol", "adjustment", "source", "sha256")
    return {name: getattr(bars, name) for name in rest} | {"sessions": list(bars.sessions)}


def probe(bars: Bars, settings: DetectorSettings) -> dict[str, Any]:
    """Feed every bar to the detector as if it had just closed: microseconds a bar, alerts a minute of computing, peak memory."""
    took: list[int] = []

    def timed() -> Iterator[Bar]:
        for bar in bars:
            begun = perf_counter_ns()
            yield bar
            took.append(perf_counter_ns() - begun)

    alerts = sum(1 for _ in processador_bdi(timed(), settings))
    p50, p95, p99 = np.percentile(took, [50, 95, 99]) / 1000 if took else (0.0, 0.0, 0.0)
    seconds = sum(took) / 1e9
    return {
        "bars": len(took),
        "sessions": len(np.unique(bars.session)),
        "alerts": alerts,
        "bar_us": {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": max(took, default=0) / 1000},
        "alerts_per_min": 60 * alerts / seconds if seconds else 0.0,
        "peak_rss_mb": peak_rss_mb(),
    }


def peak_rss_mb() -> float | None:
    """The most memory this process ever held, in MB of 1,000,000 bytes; None where the system does not tell."""
    try:
        with Path("/proc/self/status").open(encoding="ascii") as status:
            line = next(each for each in status if each.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Read what the arguments name, and print what was measured."""
    told = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    settings = DetectorSettings.from_mapping(told["settings"])
    sys.stdout.write(json.dumps(probe(open_bars(sys.argv[1], told["bars"]), settings)))


if __name__ == "__main__":
    main()
