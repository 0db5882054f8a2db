"""CSV with names in its first line, as pandas and most programs write it: the year comes first, decimals follow a point."""

from __future__ import annotations

from comporta.detector.sources.text import TextFormat, decimal_point

PLAIN_CSV = TextFormat("a plain CSV file", decimal_point)
