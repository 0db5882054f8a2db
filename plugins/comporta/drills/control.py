"""The control server is rebuilt from a backup taken now, and the ledger in it is proved to the last event."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from comporta.drills.copies import Copy, Source, copied, private_folder
from comporta.drills.model import CannotDrill, Context, Drill, DrillResult, NotRecovered
from comporta.ledger import Head, Ledger, Verification, verify
from comporta.postgres.connection import connect, database_name, describe
from comporta.postgres.queries import load


def _run(context: Context) -> DrillResult:
    dsn = context.settings.require("control")
    source = Source.read(dsn)
    live = _live_head(dsn)
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder(source, copies=1))
        started = context.clock()
        with context.step(f"base backup of {describe(dsn)}: it is only read"):
            copy = stack.enter_context(
                copied(source, folder, "control", rate_mb_per_s=context.plan.backup_rate_mb_per_s)
            )
        with context.step("the copy starts"):
            copy.cluster.start()
        with context.step("the ledger's chain is recomputed in the copy"):
            found = _verify(copy, database_name(dsn), live)
        seconds = context.clock() - started
        with context.step("Airflow's metadata database is looked for in the copy"):
            airflow = _airflow(copy)
    lost = max(0, live.last_id - (found.head.last_id if found.head else 0))
    return context.recovered(
        "control",
        seconds=seconds,
        lost=lost,
        events=found.events,
        blocks=found.blocks,
        head=found.head.hash.hex() if found.head else None,
        live_head_before_the_backup=live.hash.hex(),
        airflow=airflow,
        copied_bytes=source.bytes,
        server=describe(dsn),
    )


def _live_head(dsn: str) -> Head:
    with Ledger(dsn) as ledger:
        head = ledger.head()
    if head is None:
        raise CannotDrill(
            f"the ledger in {describe(dsn)} holds no event: its recovery would prove nothing",
            remedy="Run a dry run first (`comporta dry-run`), then drill.",
        )
    return head


def _verify(copy: Copy, database: str, live: Head) -> Verification:
    """Recompute the chain in the copy; NotRecovered when it is broken, or is not a continuation of the live one."""
    with connect(copy.dsn(database), name="comporta/drill") as conn:
        found = verify(conn)
        row = conn.execute("select hash from comporta.block where n = %s", (live.n,)).fetchone()
    if not found.ok:
        raise NotRecovered(
            f"the ledger in the copy is broken: {found.what}; {found.events} events before it hold",
            remedy="Run `comporta events verify`: if the live ledger is broken as well, follow docs/ledger.md.",
        )
    if row is not None and row[0] != live.hash:
        raise NotRecovered(
            f"block {live.n} of the copy is not the one that the live ledger has: {row[0].hex()}, expected {live.hash.hex()}",
            remedy="Keep both as they are and compare them from that block on.",
        )
    return found


def _airflow(copy: Copy) -> dict[str, Any] | None:
    """Where Airflow keeps its runs in this copy, and how many; None when its database is on another server."""
    with connect(copy.dsn("postgres"), name="comporta/drill") as conn:
        names = conn.execute("select datname from pg_database where datallowconn and not datistemplate order by 1")
        databases = [str(name) for (name,) in names]
    for database in databases:
        with connect(copy.dsn(database), name="comporta/drill") as conn:
            if conn.execute("select to_regclass('dag_run')").fetchone() != (None,):
                row = conn.execute(load("comporta.drills", "dag_runs.sql")).fetchone()
                return {"database": database, "dag_runs": row[0] if row else 0}
    return None


DRILL = Drill(
    name="control",
    component="control database",
    summary="The control server is rebuilt from a base backup; the ledger's chain is recomputed and no event is missing.",
    touches="Reads the control server through a replication connection; works on a private copy of it.",
    lost_are="events",
    run=_run,
)
