"""The binary form of a geometry, written as PostGIS itself writes it, so that a digest of it can be compared."""

from __future__ import annotations

import struct
from collections.abc import Sequence

SRID = 4326
_SRID_FLAG = 0x20000000
_POLYGON, _MULTIPOLYGON = 3, 6
_LITTLE_ENDIAN = 1


def multipolygon(ring: Sequence[Sequence[float]]) -> bytes:
    """Encode one closed ring of (longitude, latitude) as a MultiPolygon in little-endian EWKB, EPSG:4326."""
    header = struct.pack("<BIII", _LITTLE_ENDIAN, _MULTIPOLYGON | _SRID_FLAG, SRID, 1)
    polygon = struct.pack("<BIII", _LITTLE_ENDIAN, _POLYGON, 1, len(ring))
    flat = [number for point in ring for number in point[:2]]
    return header + polygon + struct.pack(f"<{len(flat)}d", *flat)
