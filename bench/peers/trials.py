"""What goes wrong on purpose, and who notices: the same trouble for every tool, judged by the same fingerprint."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from comporta.errors import ComportaError
from comporta.ledger import EventType, Ledger, NewEvent, verify
from comporta.postgres.connection import Connection, connect

from .plan import CARELESS_COLUMN, CARELESS_INDEXES, LEFT_BEHIND, Plan, only
from .server import WATCHER, Server, wait_until
from .tools import Liquibase, Ran, Tool, edit

RERUN_LIMIT_S = 60.0
HOLD_S = 6.0
_EVERY_S = 0.01


class CannotDeploy(ComportaError):
    """The tool is there, and cannot do the first half of its work: nothing can be said about it."""


@contextmanager
def project(tool: Tool, plan: Plan, server: Server) -> Iterator[Path]:
    """The tool's project on a fresh copy, in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="comporta-peers-") as name:
        tool.write(plan, Path(name), server.fresh())
        yield Path(name)


def deployed(tool: Tool) -> Ran:
    """Deploy, which must succeed: no trial is worth anything otherwise."""
    ran = tool.deploy()
    if not ran.ok:
        raise CannotDeploy(f"{tool.name} could not deploy: {' / '.join(ran.said(8))}", remedy="Run it by hand.")
    return ran


def wrong_rollback(tool: Tool, server: Server, plan: Plan) -> dict[str, Any]:
    """A: the rollback of OPT3 leaves a GRANT and a COMMENT behind."""
    with project(tool, only(plan, "OPT3", rollback_adds=LEFT_BEHIND), server):
        deployed(tool)
        ran = tool.revert()
        told = [line for line in ran.output.splitlines() if "left behind" in line or "gis_reader" in line]
        result: dict[str, Any] = {
            "code": ran.code,
            "noticed": ran.code != 0,
            "said": told or ran.said(2),
            "left_behind": list(server.judge().differences),
        }
    if isinstance(tool, Liquibase):
        result["own_rollback_test"] = _update_testing_rollback(tool, server, plan)
        result["own_diff"] = _snapshots_compared(tool, server, plan)
    return result


def _update_testing_rollback(tool: Liquibase, server: Server, plan: Plan) -> dict[str, Any]:
    with project(tool, only(plan, "OPT3", rollback_adds=LEFT_BEHIND), server):
        ran = tool.run([["update-testing-rollback"]])
        return {"code": ran.code, "noticed": ran.code != 0, "said": ran.said(2)}


def _snapshots_compared(tool: Liquibase, server: Server, plan: Plan) -> dict[str, Any]:
    """What a careful user could do by hand: a snapshot before, and ``diff`` after the rollback."""
    with project(tool, only(plan, "OPT3", rollback_adds=LEFT_BEHIND), server):
        schema = "--schemas=catalogue"
        kept = tool.run([["snapshot", schema, "--snapshot-format=json", "--output-file=before.json"]])
        if not kept.ok:
            return {"code": kept.code, "said": kept.said(3)}
        deployed(tool)
        tool.revert()
        compared = tool.run([["diff", schema, "--reference-url=offline:postgresql?snapshot=before.json"]])
        return {
            "code": compared.code,
            "names_comment": "left behind" in compared.output,
            "names_grant": "gis_reader" in compared.output or "grant" in compared.output.lower(),
            "said": [
                line.strip() for line in compared.output.splitlines() if "remarks" in line or "left behind" in line
            ][:6],
        }


def killed(tool: Tool, server: Server, plan: Plan) -> dict[str, Any]:
    """B: the backend dies in the middle of the rollback of OPT3: the search is back, its triggers and views still stand."""
    with project(tool, only(plan, "OPT3"), server):
        deployed(tool)
        with _old_search(server.catalogue) as let_go:
            return _killed(tool, server, "restored timestamptz := clock_timestamp()", let_go)


def killed_careless(tool: Tool, server: Server) -> dict[str, Any]:
    """B, careless: two DROP INDEX CONCURRENTLY without IF EXISTS, killed between them."""
    with project(tool, CARELESS_INDEXES, server):
        deployed(tool)
        return _killed(tool, server, "select pg_sleep(10)", lambda: None)


def _killed(tool: Tool, server: Server, pattern: str, let_go: Callable[[], object]) -> dict[str, Any]:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(tool.revert)
        done = _terminate(server.catalogue, pattern, running)
        let_go()
        first = running.result()
    half = server.judge()
    asked = tool.ask()
    again = tool.revert(RERUN_LIMIT_S)
    result: dict[str, Any] = {
        "killed": done,
        "code": first.code,
        "said": first.said(2),
        "half_done_differences": len(half.differences),
        "asked": {"code": asked.code, "said": asked.said(4)},
        "again": {"code": again.code, "seconds": round(again.seconds, 1), "said": again.said(2)},
        "converged": again.ok and server.judge().restored,
    }
    if isinstance(tool, Liquibase) and not again.ok:
        tool.run([["release-locks"]])
        freed = tool.revert(RERUN_LIMIT_S)
        result["after_release_locks"] = {
            "code": freed.code,
            "converged": freed.ok and server.judge().restored,
            "said": freed.said(2),
        }
    return result


def _terminate(dsn: str, pattern: str, running: Future[Ran]) -> bool:
    """End the backend that runs a statement like ``pattern``, once the statement has run for a moment."""
    query = (
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and state = 'active'"
        " and pid <> pg_backend_pid() and query like %s and query_start < clock_timestamp() - interval '0.2 s'"
    )
    with connect(dsn, name=WATCHER) as conn:
        end = time.monotonic() + 120
        while time.monotonic() < end and not running.done():
            if conn.execute(query, (f"%{pattern}%",)).rowcount:
                return True
            time.sleep(0.005)
        return False


@contextmanager
def _old_search(dsn: str) -> Iterator[Callable[[], object]]:
    """A statement older than the rollback, which therefore waits in its fourth statement until it is let go."""
    with connect(dsn, name=WATCHER) as searching, ThreadPoolExecutor(1) as pool:
        search = pool.submit(lambda: _cancelled(searching))
        try:
            yield searching.cancel
        finally:
            searching.cancel()
            search.result()


def _cancelled(conn: Connection) -> None:
    with suppress(psycopg.errors.QueryCanceled):
        conn.execute("select pg_sleep(120)")


@dataclass
class _Felt:
    longest_s: float = 0.0
    selects: int = 0


def behind_a_reader(tool: Tool, server: Server, plan: Plan) -> dict[str, Any]:
    """C: a transaction keeps the table open for 6 s when the rollback of OPT1 begins."""
    return _behind_a_reader(tool, server, only(plan, "OPT1"), r"comporta\.(claim|done|with_lock|replay)")


def behind_a_reader_careless(tool: Tool, server: Server) -> dict[str, Any]:
    """C, careless: the rollback is ALTER TABLE .. DROP COLUMN and nothing else."""
    return _behind_a_reader(tool, server, CARELESS_COLUMN, r"^\s*alter table .* drop column")


def _behind_a_reader(tool: Tool, server: Server, plan: Plan, begun: str) -> dict[str, Any]:
    with project(tool, plan, server):
        deployed(tool)
        felt, done, begins = _Felt(), threading.Event(), threading.Event()
        with ThreadPoolExecutor(3) as pool:
            reader = pool.submit(_read, server.catalogue, begun, begins, done)
            begins.wait(10)
            asker = pool.submit(_ask, server.catalogue, done, felt)
            ran = tool.revert(120)
            done.set()
            held = reader.result()
            asker.result()
        return {
            "code": ran.code,
            "seconds": round(ran.seconds, 2),
            "held_s": round(held, 2),
            "longest_select_ms": round(1000 * felt.longest_s, 1),
            "selects": felt.selects,
            "said": [] if ran.ok else ran.said(3),
            "restored": server.judge().restored,
        }


def _read(dsn: str, begun: str, begins: threading.Event, done: threading.Event) -> float:
    """Keep the table open, from before the tool starts until ``HOLD_S`` after its first statement; seconds from there on."""
    query = "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and query ~ %s"
    with connect(dsn, name=WATCHER) as watcher, connect(dsn, name="long reader") as conn:
        with conn.transaction():
            conn.execute("select count(*) from catalogue.geometrias where id < 100")
            begins.set()
            wait_until(lambda: done.is_set() or bool(watcher.execute(query, (begun,)).rowcount), 60)
            started = time.monotonic()
            done.wait(HOLD_S)
        return time.monotonic() - started


def _ask(dsn: str, done: threading.Event, felt: _Felt) -> None:
    with connect(dsn, name="plain select", statement_timeout_ms=60_000) as conn:
        while not done.is_set():
            started = time.perf_counter()
            conn.execute("select name from catalogue.geometrias where id = 4711")
            felt.longest_s = max(felt.longest_s, time.perf_counter() - started)
            felt.selects += 1
            time.sleep(_EVERY_S)


# The same forgeries for everybody, as a superuser would make them. Liquibase has one table for state and history.
_FORGED: Mapping[str, Mapping[str, str]] = {
    "sqitch": {
        "who": "update sqitch.changes set committer_name = 'somebody else', committer_email = 'else@example.org'",
        "when": "update sqitch.changes set committed_at = committed_at - interval '30 days'",
        "what": "update sqitch.changes set note = 'another note'",
        "name": "update sqitch.changes set change = change || '_forged'",
        "digest": "update sqitch.changes set script_hash = repeat('0', 40)",
        "last row of state": "delete from sqitch.changes",
        "last row": "delete from sqitch.events where committed_at = (select max(committed_at) from sqitch.events)",
    },
    "liquibase": {
        "who": "update public.databasechangelog set author = 'somebody else'",
        "when": "update public.databasechangelog set dateexecuted = dateexecuted - interval '30 days'",
        "what": "update public.databasechangelog set description = 'another', comments = 'another'",
        "name": "update public.databasechangelog set id = id || '_forged'",
        "digest": "update public.databasechangelog set md5sum = '9:' || repeat('0', 32)",
        "last row": "delete from public.databasechangelog",
    },
}
_FORGED_LEDGER: Mapping[str, str] = {
    "who": "update comporta.event set actor = 'somebody else' where id = 7",
    "when": 'update comporta.event set "timestamp" = "timestamp" - interval \'30 days\' where id = 7',
    "what": 'update comporta.event set payload = \'{"note": "another"}\' where id = 7',
    "name": "update comporta.event set event_type = 'change_failed' where id = 7",
    "digest": "update comporta.block set hash = decode(repeat('00', 32), 'hex') where n = (select max(n) from comporta.block)",
    "last row": "delete from comporta.event where id = (select max(id) from comporta.event)",
    "last row and its block": "delete from comporta.event where id = 20; delete from comporta.block where last_id = 20",
}


def forged(tool: Tool, server: Server) -> dict[str, Any]:
    """D: each forgery on a fresh copy, and what the tool's own check says then."""
    if tool.name not in _FORGED:
        return {}
    result: dict[str, Any] = {}
    with project(tool, CARELESS_COLUMN, server):
        deployed(tool)
        asked = tool.ask()
        result["untouched"] = {"noticed": not tool.is_at_ease(asked), "said": asked.said(2)}
    for what, statement in _FORGED[tool.name].items():
        with project(tool, CARELESS_COLUMN, server):
            deployed(tool)
            rows = edit(server.catalogue, statement)
            asked = tool.ask()
            result[what] = {
                "rows": rows,
                "noticed": not tool.is_at_ease(asked),
                "code": asked.code,
                "said": asked.said(3),
            }
    return result


def forged_ledger(server: Server) -> dict[str, Any]:
    """D for us: the ledger's guard switched off by a superuser, then the same forgeries, then the verifier."""
    result: dict[str, Any] = {}
    for what, statement in {"untouched": "", **_FORGED_LEDGER}.items():
        dsn = server.fresh_ledger()
        with Ledger(dsn) as ledger:
            for number in range(20):
                ledger.append("peers", [_event(number)])
        if statement:
            guard = "; ".join(f"alter table comporta.{table} {{}} trigger append_only" for table in ("event", "block"))
            edit(
                dsn,
                f"{guard.format('disable', 'disable')}; {statement}; {guard.format('enable always', 'enable always')}",
            )
        with connect(dsn, name=WATCHER) as conn:
            found = verify(conn)
        result[what] = {"noticed": not found.ok, "said": [found.what] if found.what else []}
    return result


def _event(number: int) -> NewEvent:
    return NewEvent(event_type=EventType.CHANGE_APPLIED, feature="peers", actor="bench", payload={"number": number})
