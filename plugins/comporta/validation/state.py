"""The catalogue at one moment: its fingerprint, and what stands in the schema that the fingerprint leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import psycopg

from comporta.postgres.connection import connect
from comporta.postgres.queries import load
from comporta.proof import fingerprint
from comporta.proof.fingerprint import Fingerprint


@dataclass(frozen=True)
class State:
    """``support`` maps each object of the schema ``comporta``, and each step noted for the changes asked for, to a digest.

    ``second_opinion`` is the digest of ``pg_dump --schema-only``. Where it alone differs, the fingerprint has a blind spot, or
    things of no meaning stand in another order: grants, options.
    """

    fingerprint: Fingerprint
    support: Mapping[str, str]
    second_opinion: str

    @property
    def digest(self) -> str:
        """Of the fingerprint, sequence positions left out."""
        return self.fingerprint.digest_without(fingerprint.SEQUENCE_POSITIONS)

    def differences(self, found: State, *, exactly: bool) -> list[str]:
        """What is not as in this state, in sentences; sequences may have moved on unless ``exactly``."""
        ignore = () if exactly else (fingerprint.SEQUENCE_PROGRESS,)
        named = [str(each) for each in fingerprint.diff(self.fingerprint, found.fingerprint, ignore=ignore)]
        for name in sorted(self.support.keys() | found.support.keys()):
            before, after = self.support.get(name), found.support.get(name)
            if before is None or after is None:
                told = "present" if before is not None else "absent", "present" if after is not None else "absent"
                named.append(f"{name} in the schema comporta: expected {told[0]}, found {told[1]}")
            elif before != after:
                named.append(f"{name} in the schema comporta: expected as it was, found another body")
        return named

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives them back."""
        return {
            "fingerprint": self.fingerprint.as_json(),
            "support": dict(self.support),
            "second_opinion": self.second_opinion,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read back ``as_json``."""
        return cls(Fingerprint.from_json(document["fingerprint"]), document["support"], document["second_opinion"])


def take_state(dsn: str, changes: Sequence[str]) -> State:
    """Look at the catalogue now; of the progress noted in it, at that of ``changes``."""
    with connect(dsn, name="comporta/fingerprint") as conn:
        taken = fingerprint.take(conn)
        try:
            rows = conn.execute(load("comporta.validation", "support_state.sql"), {"changes": [*changes]}).fetchall()
        except psycopg.errors.UndefinedTable:
            rows = []  # the table of progress is gone: everything in the schema shows as absent
    return State(taken, dict(rows), fingerprint.second_opinion(dsn))
