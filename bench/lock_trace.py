"""Does the lock trace see the locks? Deliberate locks with a hidden log, against what the trace reports.

    python bench/lock_trace.py --dsn "host=... user=... dbname=..." [--holds 200] [--load 0 2] [--plain]

Sessions of their own take ACCESS EXCLUSIVE locks of 1 to 60 ms on tables made for it: inside BEGIN .. COMMIT, as
single statements in autocommit, inside a DO block that commits, and as a procedure that commits between locks. Each
writes down, by the server's clock and unknown to the trace, when it had the lock and when it let go. ``--load`` keeps that
many processes of this machine busy meanwhile. Prints JSON: detection by bucket of duration, timing error, and
the achieved interval. A lock counts as seen only with the right session and table, and times that overlap.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import random
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from comporta.dryrun.locks import ACCESS_EXCLUSIVE, LockHold, LockTrace

BUCKETS_MS: Final = ((1, 2), (2, 5), (5, 10), (10, 20), (20, 60))
WAYS: Final = ("transaction", "statement", "do", "procedure")
SCHEMA: Final = """
drop schema if exists lock_trace_bench cascade;
create schema lock_trace_bench;
create table lock_trace_bench.log (pid int, relation text, way text, taken float8, released float8);
create function lock_trace_bench.hold(relation text, seconds float8, way text) returns void language plpgsql as $$
declare
    taken float8;
begin
    execute format('lock table lock_trace_bench.%I in access exclusive mode', relation);
    taken := date_part('epoch', clock_timestamp());
    perform pg_sleep(greatest(seconds - 0.0005, 0));
    while date_part('epoch', clock_timestamp()) < taken + seconds loop null; end loop;
    insert into lock_trace_bench.log values (pg_backend_pid(), relation, way, taken, date_part('epoch', clock_timestamp()));
end
$$;
create procedure lock_trace_bench.holds(relation text, lengths float8[]) language plpgsql as $$
begin
    for i in 1 .. cardinality(lengths) loop
        perform lock_trace_bench.hold(relation, lengths[i], 'procedure');
        commit;
        perform pg_sleep(0.01);
        commit;
    end loop;
end
$$
"""


@dataclass(frozen=True)
class Taken:
    """One lock of the hidden log."""

    pid: int
    relation: str
    way: str
    taken: float
    released: float

    @property
    def seconds(self) -> float:
        return self.released - self.taken


def take_locks(dsn: str, number: int, lengths: list[float], seed: int) -> None:
    """One session's share: a quarter of the lengths each way, on a table of its own."""
    draw = random.Random(seed)  # noqa: S311 - durations, not secrets
    table = f"t{number}"
    with psycopg.connect(dsn, autocommit=True, application_name=f"lock-bench/{number}") as conn:
        for index, length in enumerate(lengths):
            way = WAYS[index % len(WAYS)]
            time.sleep(draw.uniform(0.001, 0.03))
            if way == "transaction":
                with conn.transaction():
                    conn.execute("select lock_trace_bench.hold(%s, %s, %s)", (table, length, way))
            elif way == "statement":
                conn.execute("select lock_trace_bench.hold(%s, %s, %s)", (table, length, way))
            elif way == "do":
                conn.execute(f"do $$ begin perform lock_trace_bench.hold('{table}', {length}, 'do'); commit; end $$")
            else:
                conn.execute("call lock_trace_bench.holds(%s, %s)", (table, [length]))


def lengths_of(count: int, seed: int) -> list[float]:
    """Durations in seconds, as many from each bucket."""
    draw = random.Random(seed)  # noqa: S311 - durations, not secrets
    return [draw.uniform(*BUCKETS_MS[index % len(BUCKETS_MS)]) / 1000 for index in range(count)]


def burn(stop: Any) -> None:
    """Keep one processor busy."""
    while not stop.is_set():
        sum(range(20_000))


def run(dsn: str, *, holds: int, sessions: int, load: int, seed: int, prefer: bool) -> dict[str, Any]:
    """One round; leaves nothing behind."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(SCHEMA)
        for number in range(sessions):
            conn.execute(f"create table lock_trace_bench.t{number} (a int)")
        stop = mp.Event()
        burners = [mp.Process(target=burn, args=(stop,), daemon=True) for _ in range(load)]
        for burner in burners:
            burner.start()
        try:
            found, quality = _traced(dsn, holds, sessions, seed, prefer)
        finally:
            stop.set()
            for burner in burners:
                burner.join()
        rows = conn.execute("select pid, relation, way, taken, released from lock_trace_bench.log").fetchall()
        conn.execute("drop schema lock_trace_bench cascade")
    return {
        "load": load,
        "preferred": prefer,
        "sessions": sessions,
        **_judge([Taken(*row) for row in rows], found),
        "trace": quality,
    }


def _traced(
    dsn: str, holds: int, sessions: int, seed: int, prefer: bool
) -> tuple[tuple[LockHold, ...], dict[str, Any]]:
    lengths = lengths_of(holds, seed)
    random.Random(seed).shuffle(lengths)  # noqa: S311 - durations, not secrets
    with LockTrace(dsn, applications=("lock-bench/",), prefer=prefer) as trace:
        threads = [
            threading.Thread(target=take_locks, args=(dsn, number, lengths[number::sessions], seed + number))
            for number in range(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        trace.settle(time.time())
        return trace.holds(), trace.quality().to_json()


def _judge(log: list[Taken], holds: tuple[LockHold, ...]) -> dict[str, Any]:
    matched = [(taken, _match(taken, holds)) for taken in log]
    starts = sorted(abs(hold.first_seen - taken.taken) * 1000 for taken, hold in matched if hold)
    # The log is written just before COMMIT: only where the server commits at once is its length the lock's.
    lengths = sorted(abs(h.seconds - t.seconds) * 1000 for t, h in matched if h and t.way != "transaction")
    bounded = sum(taken.seconds <= hold.seconds_max + 0.0005 for taken, hold in matched if hold)
    long_enough = [(taken, hold) for taken, hold in matched if taken.seconds >= 0.005]
    return {
        "holds": len(log),
        "detected_5_ms_and_more": _share(long_enough),
        "detected": {
            f"{low}-{high} ms": _share([(t, h) for t, h in matched if low <= t.seconds * 1000 < high])
            for low, high in (*BUCKETS_MS, (60, 10_000))
        },
        "detected_by_way": {way: _share([(t, h) for t, h in long_enough if t.way == way]) for way in WAYS},
        "start_error_ms": _spread(starts),
        "length_error_ms": _spread(lengths),
        "no_longer_than_stated": f"{bounded}/{sum(hold is not None for _, hold in matched)}",
    }


def _spread(ordered: list[float]) -> dict[str, float]:
    if not ordered:
        return {}
    return {"median": round(statistics.median(ordered), 3), "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 3),
            "max": round(ordered[-1], 3)}  # fmt: skip


def _match(taken: Taken, holds: tuple[LockHold, ...]) -> LockHold | None:
    """The reported lock that overlaps the logged one most, of the same session on the same table."""
    same = [
        hold
        for hold in holds
        if hold.pid == taken.pid and hold.relation == f"lock_trace_bench.{taken.relation}"
        and hold.mode == ACCESS_EXCLUSIVE and hold.first_seen <= taken.released + 0.001 and hold.last_seen >= taken.taken - 0.001
    ]  # fmt: skip
    return max(
        same, key=lambda hold: min(hold.last_seen, taken.released) - max(hold.first_seen, taken.taken), default=None
    )


def _share(pairs: list[tuple[Taken, LockHold | None]]) -> str:
    seen = sum(hold is not None for _, hold in pairs)
    return f"{seen}/{len(pairs)} ({100 * seen / len(pairs):.1f} %)" if pairs else "0/0"


def main() -> int:
    """Run the rounds and print JSON; status 1 when fewer than 95 % of the locks of 5 ms and more were seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--holds", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--load", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="do not ask the operating system for a better priority")
    options = parser.parse_args()
    rounds = [
        run(
            options.dsn,
            holds=options.holds,
            sessions=options.sessions,
            load=load,
            seed=options.seed,
            prefer=not options.plain,
        )
        for load in options.load
    ]
    print(json.dumps(rounds, indent=1))
    return int(any(_percent(each["detected_5_ms_and_more"]) < 95 for each in rounds))


def _percent(share: str) -> float:
    seen, _, total = share.partition(" ")[0].partition("/")
    return 100 * int(seen) / max(int(total), 1)


if __name__ == "__main__":
    sys.exit(main())
