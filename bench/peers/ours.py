"""Comporta as a program of its own, so that its start counts like that of the others: ``python ours.py deploy|revert``.

The connection comes in PEERS_DSN, the lock_timeout in PEERS_LOCK_TIMEOUT_MS; the folder holds NN_name.apply.sql and the
like. ``deploy`` keeps fingerprint and checksums of before; ``revert`` rolls back, compares, and ends with 1 on any difference.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from comporta.errors import ComportaError
from comporta.postgres.connection import Connection, connect
from comporta.postgres.execution import run_script
from comporta.postgres.script import Script
from comporta.proof.checksum import TableChecksum, checksum_tables, diff_checksums
from comporta.proof.fingerprint import SEQUENCE_POSITIONS, Fingerprint, diff, take


def main() -> int:
    """Exit code 0: done, and proved where there is something to prove."""
    action, folder = sys.argv[1], Path(sys.argv[2])
    try:
        return {"deploy": _deploy, "revert": _revert, "status": _status}[action](folder)
    except ComportaError as error:
        print(error, file=sys.stderr)
        return 2


def _deploy(folder: Path) -> int:
    with _connect("proof") as conn:
        _keep(folder, _measure(conn))
    for apply in sorted(folder.glob("*.apply.sql")):
        _run(apply)
        if (verify := apply.with_name(apply.name.replace(".apply.", ".verify."))).exists():
            _run(verify)
    return 0


def _revert(folder: Path) -> int:
    for rollback in sorted(folder.glob("*.rollback.sql"), reverse=True):
        _run(rollback)
    with _connect("proof") as conn:
        found = _measure(conn)
    before = json.loads((folder / "before.json").read_text(encoding="utf-8"))
    expected = {name: TableChecksum(*values) for name, values in before["checksums"].items()}
    differences = diff(Fingerprint.from_json(before["fingerprint"]), found[0], ignore=(SEQUENCE_POSITIONS,))
    differences += diff_checksums(expected, found[1])
    for difference in differences:
        print(f"not restored: {difference}")
    print(f"proof: {found[2]:.3f} s")
    return 1 if differences else 0


def _status(_: Path) -> int:
    with _connect("status") as conn:
        for change, steps in conn.execute(
            "select change, string_agg(step, ', ' order by step) from comporta.step group by 1"
        ):
            print(f"{change} is in the middle or in place: {steps}")
    return 0


def _run(path: Path) -> None:
    with _connect(path.stem) as conn:
        run_script(conn, Script.read(path))


def _connect(what: str) -> Connection:
    lock_timeout_ms = int(os.environ.get("PEERS_LOCK_TIMEOUT_MS", "0"))
    return connect(os.environ["PEERS_DSN"], name=f"comporta/{what}", lock_timeout_ms=lock_timeout_ms)


def _measure(conn: Connection) -> tuple[Fingerprint, dict[str, TableChecksum], float]:
    started = time.perf_counter()
    fingerprint, checksums = take(conn), checksum_tables(conn)
    return fingerprint, checksums, time.perf_counter() - started


def _keep(folder: Path, measured: tuple[Fingerprint, dict[str, TableChecksum], float]) -> None:
    fingerprint, checksums, seconds = measured
    plain: dict[str, Any] = {
        "fingerprint": fingerprint.as_json(),
        "checksums": {name: [each.rows, each.digest] for name, each in checksums.items()},
    }
    (folder / "before.json").write_text(json.dumps(plain), encoding="utf-8")
    print(f"proof: {seconds:.3f} s")


if __name__ == "__main__":
    sys.exit(main())
