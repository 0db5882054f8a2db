"""How correct and how costly is the ledger? Writers race, a reader follows, and appends run beside plain inserts.

    python bench/ledger.py --dsn "host=... user=... dbname=postgres" [--events 100000] [--writers 8] [--replay 1000000]

Makes databases of its own on that server and drops them again. Prints JSON. Three parts:

race    writers append in mixed batch sizes to one shared and one own stream each, and repeat a tenth of their calls as
        if the answer had been lost, while a reader tails. Every id, version and idempotency key is then counted.
cost    the same events, in turns: a plain insert into a table with the same columns and indexes, the ledger's append,
        and the `eventsourcing` library when it is installed. CPU is that of client and backend together
        (the backend's from /proc, so only when the server is on this machine); wall time is the best round.
replay  as many events, in 10,000 streams and a tenth of them in gates, into every projection, in SQL; and beside it
        the last event of each stream folded in Python, as a client would.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import random
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from comporta.gates import EvidenceItem, GateBook, GateRequest, Need, Policy
from comporta.ledger import PROJECTIONS, Event, Ledger, NewEvent, migrate, verify
from comporta.ledger.projection import WORK_MEM

PLAIN_TABLE = """
create table public.plain (
    id bigint generated always as identity primary key, stream text not null, version integer not null,
    feature text not null, event_type text not null, workflow text, phase text, payload jsonb not null,
    actor text not null,
    "timestamp" timestamptz not null default clock_timestamp(), idempotency_key text, unique (stream, version)
);
create unique index on public.plain (idempotency_key) where idempotency_key is not null;
create table public.plain_json (like public.plain including all)
"""
PLAIN_INSERT = """
insert into public.plain (stream, version, feature, event_type, workflow, phase, payload, actor, idempotency_key)
values (%s, %s, %s, %s, %s, %s, %s::jsonb, %s, %s)
"""
PLAIN_INSERT_JSON = """
insert into public.plain_json (stream, version, feature, event_type, workflow, phase, payload, actor, idempotency_key)
select %s, %s + nth, feature, event_type, workflow, phase, payload, actor, idempotency_key
  from rows from (jsonb_to_recordset(%s::jsonb) as (
           feature text, event_type text, workflow text, phase text, payload jsonb, actor text, idempotency_key text))
       with ordinality i (feature, event_type, workflow, phase, payload, actor, idempotency_key, nth)
"""
BATCHES = (1, 1, 1, 10, 50)
RETRIED = 0.1


def event(key: str, number: int) -> NewEvent:
    payload = {"statement": number, "duration_ms": number % 977 / 10, "locks": ["AccessShareLock"], "note": "x" * 140}
    return NewEvent(
        event_type="change_measured", feature="bench", actor="bench", workflow="stage2", phase="OPT1",
        payload=payload, idempotency_key=key,
    )  # fmt: skip


def write(dsn: str, writer: int, events: int, shared: str, results: Any) -> None:
    """Append ``events`` events; a tenth of the calls is repeated and must give the same ids again."""
    chance = random.Random(writer)  # noqa: S311 - a repeatable choice, not a secret
    ids: list[int] = []
    retries = wrong = written = 0
    with Ledger(dsn, lock_timeout_ms=60_000) as ledger:
        while written < events:
            size = min(chance.choice(BATCHES), events - written)
            batch = [event(f"{writer}/{written + i}", written + i) for i in range(size)]
            stream = shared if chance.random() < 0.5 else f"bench/{writer}"
            given = ledger.append(stream, batch)
            if chance.random() < RETRIED:
                retries += 1
                wrong += ledger.append(stream, batch) != given
            ids.extend(given)
            written += size
    results.put((ids, retries, wrong))


def follow(dsn: str, total: int, results: Any) -> None:
    """Tail until ``total`` events were seen, or nothing came for 30 s; report the ids in the order received."""
    seen: list[int] = []
    last = time.monotonic()

    def stop() -> bool:
        return len(seen) >= total or time.monotonic() - last > 30

    with Ledger(dsn) as ledger:
        for found in ledger.tail(0, wake_up_timeout_s=1.0, stop=stop):
            seen.append(found.id)
            last = time.monotonic()
    results.put(seen)


def race(dsn: str, total: int, writers: int) -> dict[str, Any]:
    context = mp.get_context("spawn")
    written, read = context.Queue(), context.Queue()
    reader = context.Process(target=follow, args=(dsn, total, read))
    share = total // writers
    workers = [context.Process(target=write, args=(dsn, w, share, "bench/shared", written)) for w in range(writers)]
    started = time.monotonic()
    for process in (reader, *workers):
        process.start()
    outcomes = [written.get() for _ in workers]
    wall = time.monotonic() - started
    seen = read.get()
    for process in (reader, *workers):
        process.join()
    acknowledged = sorted(i for ids, _, _ in outcomes for i in ids)
    with psycopg.connect(dsn, autocommit=True) as conn:
        count, low, high, keys = conn.execute(
            "select count(*), min(id), max(id), count(distinct idempotency_key) from comporta.event"
        ).fetchone() or (0, 0, 0, 0)
    return {
        "events": count,
        "writers": writers,
        "gap_free": (low, high) == (1, count) and acknowledged == list(range(1, count + 1)),
        "calls_repeated": sum(r for _, r, _ in outcomes),
        "repeats_with_other_ids": sum(w for _, _, w in outcomes),
        "duplicates": count - keys,
        "reader_missed": count - len(set(seen)),
        "reader_duplicates": len(seen) - len(set(seen)),
        "reader_in_order": seen == sorted(seen),
        "events_per_s": round(count / wall),
    }


def check(dsn: str) -> dict[str, Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        wall, cpu = time.monotonic(), time.process_time()
        found = verify(conn)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {
        "ok": found.ok,
        "events": found.events,
        "blocks": found.blocks,
        "events_per_s_core": round(found.events / cpu),
        "events_per_s_wall": round(found.events / wall),
    }


class Plain:
    """A plain insert of the same columns, one commit a batch, into a table with the same indexes.

    A single row goes in autocommit, as the ledger's append does: one round trip, the cheapest way there is.
    """

    def __init__(self, dsn: str, statement: str) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.statement = statement
        self.version = 0

    def append(self, stream: str, batch: list[NewEvent]) -> None:
        if self.statement is PLAIN_INSERT_JSON:
            self.conn.execute(self.statement, (stream, self.version, _document(batch)), prepare=True)
        else:
            rows = [
                (stream, version, e.feature, e.event_type, e.workflow, e.phase, json.dumps(e.payload), e.actor, key)
                for version, e in enumerate(batch, start=self.version + 1)
                for key in (e.idempotency_key,)
            ]
            if len(rows) == 1:
                self.conn.execute(self.statement, rows[0], prepare=True)
            else:
                with self.conn.transaction(), self.conn.cursor() as cursor:
                    cursor.executemany(self.statement, rows)
        self.version += len(batch)


def _document(batch: list[NewEvent]) -> str:
    return json.dumps([vars(e) for e in batch])


class Chained:
    def __init__(self, dsn: str) -> None:
        self.ledger = Ledger(dsn)
        self.conn = self.ledger._conn

    def append(self, stream: str, batch: list[NewEvent]) -> None:
        self.ledger.append(stream, batch)


class Library:
    """The recorder of the `eventsourcing` library, which has neither idempotency keys nor a chain."""

    def __init__(self, dsn: str) -> None:
        # The library is optional.
        from eventsourcing.persistence import StoredEvent
        from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

        where = conninfo_to_dict(dsn)
        store = PostgresDatastore(
            dbname=where["dbname"],
            host=where["host"],
            port=where["port"],
            user=where["user"],
            password=where.get("password") or "",
        )
        self.recorder = PostgresApplicationRecorder(store, events_table_name="stored_events")
        self.recorder.create_table()
        with store.get_connection() as conn, conn.cursor() as cursor:
            cursor.execute("select pg_backend_pid() as pid")
            self.pid = cursor.fetchone()["pid"]  # the pool hands out this connection again: nobody else asks
        self.stored = StoredEvent
        self.originator = uuid.uuid4()
        self.version = 0

    def append(self, stream: str, batch: list[NewEvent]) -> None:  # noqa: ARG002 - it knows originators only
        self.recorder.insert_events(
            [
                self.stored(self.originator, self.version + i, "bench:Measured", json.dumps(e.payload).encode())
                for i, e in enumerate(batch, start=1)
            ]
        )
        self.version += len(batch)


class LibraryApplication:
    """The same library by its front door: an aggregate takes an event, the application saves it. What `Ledger.append` is here."""

    def __init__(self, dsn: str) -> None:
        from eventsourcing.application import Application
        from eventsourcing.domain import Aggregate
        from eventsourcing.domain import event as decorated

        class Measured(Aggregate):
            def __init__(self) -> None:
                self.count = 0

            @decorated("Measured")
            def measure(self, payload: dict[str, Any]) -> None:  # noqa: ARG002 - the event keeps it
                self.count += 1

        where = conninfo_to_dict(dsn)
        settings = {
            f"POSTGRES_{name.upper()}": str(where.get(name) or "")
            for name in ("dbname", "host", "port", "user", "password")
        }
        self.app = Application[uuid.UUID](env={"PERSISTENCE_MODULE": "eventsourcing.postgres", **settings})
        self.aggregate = Measured()
        self.app.save(self.aggregate)
        with self.app.factory.datastore.get_connection() as conn, conn.cursor() as cursor:
            cursor.execute("select pg_backend_pid() as pid")
            self.pid = cursor.fetchone()["pid"]

    def append(self, stream: str, batch: list[NewEvent]) -> None:  # noqa: ARG002 - it knows aggregates only
        for one in batch:
            self.aggregate.measure(payload=dict(one.payload))
        self.app.save(self.aggregate)


def cost(dsn: str, rounds: int) -> dict[str, Any]:
    subjects: dict[str, Any] = {
        "plain": Plain(dsn, PLAIN_INSERT),
        "plain_json": Plain(dsn, PLAIN_INSERT_JSON),
        "ledger": Chained(dsn),
    }
    with suppress(ImportError):
        subjects["eventsourcing"] = Library(dsn)
        subjects["eventsourcing_application"] = LibraryApplication(dsn)
    result: dict[str, Any] = {}
    for size, calls in ((1, 500), (100, 40), (1000, 8)):
        figures: dict[str, list[tuple[float, float | None]]] = {name: [] for name in subjects}
        for turn in range(rounds + 1):
            for name, subject in subjects.items():
                batches = [[event(f"{size}/{turn}/{c}/{i}", i) for i in range(size)] for c in range(calls)]
                figures[name].append(_measure(subject, f"cost/{size}", batches))
        result[f"batch_{size}"] = _summary({name: rows[1:] for name, rows in figures.items()})  # the first warms up
    return result


def _measure(subject: Any, stream: str, batches: list[list[NewEvent]]) -> tuple[float, float | None]:
    """Wall and CPU microseconds an event."""
    events = sum(map(len, batches))
    pid = subject.pid if hasattr(subject, "pid") else subject.conn.info.backend_pid
    backend, client, wall = _backend_cpu_s(pid), time.process_time(), time.perf_counter()
    for batch in batches:
        subject.append(stream, batch)
    wall, client = time.perf_counter() - wall, time.process_time() - client
    after = _backend_cpu_s(pid)
    cpu = None if backend is None or after is None else (client + after - backend) / events * 1e6
    return wall / events * 1e6, cpu


def _backend_cpu_s(pid: int) -> float | None:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return None


def _summary(figures: dict[str, list[tuple[float, float | None]]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name, rows in figures.items():
        cpu = [c for _, c in rows if c is not None]
        summary[name] = {
            "events_per_s_best": round(1e6 / min(w for w, _ in rows)),
            "events_per_s_median": round(1e6 / statistics.median(w for w, _ in rows)),
            "cpu_us_per_event": round(statistics.median(cpu), 1) if cpu else None,
        }
    ours = summary["ledger"]["cpu_us_per_event"]
    if ours:
        for name in figures.keys() - {"ledger"}:
            summary[f"cpu_ratio_ledger_to_{name}"] = round(ours / summary[name]["cpu_us_per_event"], 2)
    for name in figures.keys() - {"ledger"}:
        for kind in ("best", "median"):
            rates = summary["ledger"][f"events_per_s_{kind}"], summary[name][f"events_per_s_{kind}"]
            summary[f"rate_ratio_ledger_to_{name}_{kind}"] = round(rates[0] / rates[1], 2)
    return summary


FILL = """
do $$
declare
    kinds text[] := array['change_applied', 'change_measured', 'change_verified', 'proof_recorded'];
    note text := repeat('x', 100);
    opened jsonb := (select payload from comporta.event where event_type = 'gate_opened' limit 1);
begin
    for batch in 0 .. {batches} - 1 loop
        perform comporta.record('bench/' || batch % 10000, null, (
            select jsonb_agg(jsonb_build_object('event_type', kinds[1 + (batch + i) % 4], 'feature', 'release', 'actor', 'task',
                       'workflow', 'stage2', 'phase', 'OPT' || i % 5, 'payload', jsonb_build_object('number', i, 'note', note)))
              from generate_series(1, {size}) i));
    end loop;
    for number in 1 .. {gates} loop
        perform comporta.record('gate/bench/' || number, 0, (
            select jsonb_agg(jsonb_build_object('event_type', kind, 'feature', 'release', 'actor', actor, 'workflow', 'gate',
                       'phase', 'rollout', 'payload', payload) order by nth)
              from (values (1, 'gate_opened', 'task', opened),
                           (2, 'gate_vote_cast', 'cfo', '{vote}'::jsonb), (3, 'gate_vote_cast', 'po', '{vote}'::jsonb),
                           (4, 'gate_decided', 'po', '{decision}'::jsonb), (5, 'gate_consumed', 'task', '{use}'::jsonb)
                   ) as step (nth, kind, actor, payload)));
    end loop;
end $$
"""
AT = "2029-01-31T10:00:00+00:00"
VOTE = {"decision": "go", "reason": "looked at it", "at": AT, "via": "bench"}


def fill(dsn: str, total: int) -> None:
    """So many events as everyday life would leave them, by the ledger's own function."""
    needs = Policy(needs=(Need("PO"),), holders={"PO": ("po",)})
    with GateBook(dsn) as book:
        request = GateRequest(
            name="rollout", question="May it go?", feature="release", asker="d/r/t/-1",
            asked_by={"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "-1"}, policy=needs,
            evidence=(EvidenceItem("scripts", "Scripts", "a" * 64),), answer_within_s=7200, holds_for_s=86400,
            remind_after_s=(),
        )  # fmt: skip
        book.open("bench/0", request, actor="task")
    gates, size = total // 50, 20
    values = {
        "vote": VOTE,
        "decision": {**VOTE, "by": ["po"], "valid_until": AT},
        "use": {"consumer": "d/r/t/-1/1", "at": AT},
    }
    statement = FILL.replace("{batches}", str((total - 5 * gates) // size)).replace("{size}", str(size))
    statement = statement.replace("{gates}", str(gates))
    for name, value in values.items():
        statement = statement.replace("{" + name + "}", json.dumps(value))
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set search_path = pg_catalog, pg_temp")
        conn.execute("set enable_seqscan = off")
        conn.execute(statement.encode())
        conn.execute("vacuum analyze comporta.event")


def replay(dsn: str, total: int) -> dict[str, Any]:
    """Seconds to rebuild each projection, whole, for the last event; and the naive fold beside it."""
    fill(dsn, total)
    result: dict[str, Any] = {"projections": {}}
    with psycopg.connect(dsn, autocommit=True) as conn:
        (result["events"],) = conn.execute("select count(*) from comporta.event").fetchone() or (0,)
        for projection in PROJECTIONS:
            seconds = []
            for turn in range(3):
                started = time.perf_counter()
                with conn.transaction():
                    conn.execute(WORK_MEM)
                    conn.execute(
                        sql.SQL("create temp table {} as select * from comporta.{}(9223372036854775807)").format(
                            sql.Identifier(f"{projection.name}_{turn}"), sql.Identifier(projection.as_of)
                        )
                    )
                seconds.append(time.perf_counter() - started)
            count = sql.SQL("select count(*) from {}").format(sql.Identifier(f"{projection.name}_0"))
            (rows,) = conn.execute(count).fetchone() or (0,)
            result["projections"][projection.name] = {"rows": rows, "s": round(statistics.median(seconds), 2)}
    result["all_s"] = round(sum(one["s"] for one in result["projections"].values()), 2)
    started = time.perf_counter()
    states: dict[str, Event] = {}
    with Ledger(dsn) as ledger:
        after = 0
        while page := ledger.read(None, after, 10_000):
            states.update((found.stream, found) for found in page)
            after = page[-1].id
    result["python_fold_of_streams_s"] = round(time.perf_counter() - started, 2)
    return result


def in_own_database(dsn: str, run: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    name = f"bench_ledger_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f'create database "{name}"'.encode())
        try:
            own = make_conninfo(dsn, dbname=name)
            with psycopg.connect(own, autocommit=True) as conn:
                migrate(conn)
                conn.execute(PLAIN_TABLE)
            return run(own)
        finally:
            admin.execute(f'drop database "{name}" with (force)'.encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", required=True, help="a server on which a database may be created")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--replay", type=int, default=1_000_000, help="events to replay; 0: leave it out")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    def run(dsn: str) -> dict[str, Any]:
        return {
            "race": race(dsn, options.events, options.writers),
            "verify": check(dsn),
            "cost": cost(dsn, options.rounds),
        }

    report = in_own_database(options.dsn, run)
    if options.replay:
        report["replay"] = in_own_database(options.dsn, lambda dsn: replay(dsn, options.replay))
    json.dump(report, sys.stdout, indent=2)
    print()
    found = report["race"]
    good = found["gap_free"] and report["verify"]["ok"]
    return 0 if good and not (found["reader_missed"] or found["reader_duplicates"] or found["duplicates"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
