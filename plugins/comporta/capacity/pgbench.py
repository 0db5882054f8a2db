"""One rung of the load ladder: pgbench, PostgreSQL's own load generator, with the transactions of the recorded mix.

Closed loop: every client sends its next transaction as soon as the last one is answered, so the clients are the concurrency.
"""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from comporta.capacity.model import Latency
from comporta.errors import ComportaError
from comporta.postgres.tools import client_program

PASSES, ENOUGH = 3, 3  # a rung is run again while a kind was drawn less than so often
WEIGHTS = 10_000  # pgbench takes whole numbers: the finest share is one in so many
_COLUMNS = ["client", "number", "time_us", "script", "epoch_s", "epoch_us"]


class LoadFailed(ComportaError):
    """pgbench could not put the load on the clone; its own words are in the message."""


@dataclass(frozen=True)
class WeightedScript:
    """One kind of transaction: its name, its pgbench script, its weight in the mix (any positive number)."""

    name: str
    path: Path
    weight: float


@dataclass(frozen=True)
class Window:
    """When a rung is measured: what begins in ``seconds`` after ``warm_up_s`` counts, and the load goes on for ``tail_s`` more.

    What takes long needs time to pile up before the clients stand as they do in the long run, and must not run out while the others
    have stopped already: a rung that is short beside its slowest transaction shows a server that is faster than it is.
    """

    warm_up_s: float
    seconds: float
    tail_s: float = 0.0

    @classmethod
    def around(cls, slowest_s: float, *, seconds: float, warm_up_s: float) -> Window:
        """The least whole seconds in which transactions that take ``slowest_s`` can pile up, be counted, and run out."""
        warm_up_s = max(warm_up_s, slowest_s / 2)
        whole = math.ceil(warm_up_s + max(seconds, 1.5 * slowest_s) + slowest_s)
        return cls(warm_up_s, whole - warm_up_s - slowest_s, slowest_s)

    @property
    def whole_s(self) -> float:
        """From the first transaction to the last that begins."""
        return self.warm_up_s + self.seconds + self.tail_s


@dataclass(frozen=True)
class Load:
    """What a rung showed, without its warm-up. ``cut_off`` is True when it had to be ended.

    Rate and times are those of the mix itself: each kind of transaction counts by its weight, however often chance drew it. A kind
    that is rare and slow would otherwise make two rungs of the same server differ by a third.
    """

    seconds: float
    transactions: int
    failed: int
    throughput_per_s: float
    latency: Latency
    by_transaction: Mapping[str, Latency]
    calls: Mapping[str, int]
    cut_off: bool


@dataclass(frozen=True)
class Pass:
    """One run of pgbench: ``answers`` has script, ms (NaN: failed), whether it began in the window, and its seconds inside."""

    answers: pd.DataFrame
    aborted: int
    cut_off: bool


def run_load(
    dsn: str,
    scripts: Sequence[WeightedScript],
    *,
    clients: int,
    window: Window,
    longest_s: float,
    seed: int,
    variables: Mapping[str, int],
    most_passes: int = PASSES,
) -> Load:
    """Let ``clients`` work for a window, and again where a kind was hardly drawn, ``most_passes`` at most.

    A statement that takes longer than ``longest_s`` is cancelled and its transaction counted as failed. ``variables`` are what
    the scripts read besides their own. Raises LoadFailed when nothing was answered at all.
    """
    passes: list[Pass] = []
    while len(passes) < most_passes:
        passes.append(_pass(dsn, scripts, clients, window, longest_s, seed + len(passes), variables))
        drawn = pd.concat([each.answers.loc[each.answers["counts"], "script"] for each in passes]).value_counts()
        if passes[-1].cut_off or passes[-1].aborted or all(drawn.get(n, 0) >= ENOUGH for n in range(len(scripts))):
            break
    return load_of(passes, scripts, clients, window.seconds)


def _pass(
    dsn: str,
    scripts: Sequence[WeightedScript],
    clients: int,
    window: Window,
    longest_s: float,
    seed: int,
    variables: Mapping[str, int],
) -> Pass:
    with tempfile.TemporaryDirectory(prefix="comporta-load-") as folder:
        command, environment = _command(dsn, scripts, clients, window.whole_s, longest_s, seed, variables, folder)
        # The clients' own run, twice the longest statement for those under way at its end, and room to connect.
        patience = window.whole_s + 2 * longest_s + 10.0
        cut_off = False
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                errors = process.communicate(timeout=patience)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                errors = process.communicate()[1]
                cut_off = True
            except BaseException:  # Ctrl-C, or the task was ended: the load ends with us
                process.kill()
                raise
        log = _read_log(Path(folder))
    if log.empty:
        raise LoadFailed(
            f"pgbench was answered nothing with {clients} client(s) (exit status {process.returncode}): "
            + (" ".join(errors.split())[-600:] or "no message"),
            remedy="Run the load script that it names by hand on a clone: its statements must work before and after the release.",
        )
    return Pass(answers_of(log, window), len(_aborted(errors)), cut_off)


def _command(
    dsn: str,
    scripts: Sequence[WeightedScript],
    clients: int,
    whole_s: float,
    longest_s: float,
    seed: int,
    variables: Mapping[str, int],
    folder: str,
) -> tuple[list[str], dict[str, str]]:
    parts = conninfo_to_dict(dsn)
    environment = dict(os.environ)
    if password := parts.pop("password", None):
        environment["PGPASSWORD"] = str(password)
    environment["PGOPTIONS"] = f"-c statement_timeout={round(longest_s * 1000)} -c lock_timeout=0"
    parts["application_name"] = "comporta/load"
    whole = sum(script.weight for script in scripts)
    files = [f"--file={s.path}@{max(1, round(WEIGHTS * s.weight / whole))}" for s in scripts]
    return [
        client_program("pgbench"),
        "--no-vacuum",
        f"--client={clients}",
        f"--jobs={min(clients, os.cpu_count() or 1)}",
        f"--time={math.ceil(whole_s)}",
        f"--random-seed={seed}",
        "--max-tries=1",
        "--failures-detailed",
        "--log",
        f"--log-prefix={folder}/log",
        *(f"--define={name}={value}" for name, value in variables.items()),
        *files,
        make_conninfo("", **parts),
    ], environment


def _read_log(folder: Path) -> pd.DataFrame:
    """Every thread's log: a line for each transaction, with the moment of its end; a failed one has a word for its time."""
    text = "".join(file.read_text() for file in sorted(folder.glob("log.*")))
    whole = text[: text.rfind("\n") + 1]  # a killed pgbench leaves half a line
    return pd.read_csv(io.StringIO(whole), sep=" ", names=_COLUMNS, usecols=range(len(_COLUMNS)))


def answers_of(log: pd.DataFrame, window: Window) -> pd.DataFrame:
    """The transactions that have a part in the window, from the lines of pgbench's log (us).

    Those that began in it count, with their whole time: dropping what was under way at its end would flatter. The others only tell
    how busy the clients were.
    """
    ended = log["epoch_s"] + log["epoch_us"] / 1e6
    took = pd.to_numeric(log["time_us"], errors="coerce") / 1000
    begun = ended - took.fillna(0) / 1000
    opens = float(begun.min()) + window.warm_up_s
    closes = opens + window.seconds
    inside = np.minimum(ended, closes) - np.maximum(begun, opens)
    counts = (begun >= opens) & (begun < closes)
    answers = pd.DataFrame({"script": log["script"], "ms": took, "counts": counts, "inside_s": inside.clip(lower=0)})
    return answers[(ended >= opens) & (begun < closes)]


def load_of(passes: Sequence[Pass], scripts: Sequence[WeightedScript], clients: int, seconds: float) -> Load:
    """What the passes add up to. With think time 0, rate = clients x their busy share / mean time of the mix (Little's law)."""
    every = pd.concat([each.answers for each in passes])
    good = every[every["ms"].notna() & every["counts"]]
    kinds = {scripts[int(number)]: times for number, times in good.groupby("script")["ms"]}
    whole = sum(script.weight for script in kinds)
    weights = good["script"].map(
        {n: script.weight / whole / len(kinds[script]) for n, script in enumerate(scripts) if script in kinds}
    )
    latency = _latency(good["ms"], weights)
    busy = min(1.0, float(every.loc[every["ms"].notna(), "inside_s"].sum()) / (clients * seconds * len(passes)))
    return Load(
        seconds=seconds * len(passes),
        transactions=len(good),
        failed=int((every["ms"].isna() & every["counts"]).sum()) + sum(each.aborted for each in passes),
        throughput_per_s=clients * busy / latency.mean_ms * 1000 if latency.mean_ms else 0.0,
        latency=latency,
        by_transaction={script.name: _latency(times, np.ones(len(times))) for script, times in kinds.items()},
        calls={script.name: len(times) for script, times in kinds.items()},
        cut_off=any(each.cut_off for each in passes),
    )


def _latency(times_ms: pd.Series[float], weights: pd.Series[float] | NDArray[np.float64]) -> Latency:
    if times_ms.empty:
        return Latency(mean_ms=0.0, p50_ms=0.0, p95_ms=0.0, p99_ms=0.0)
    values, shares = times_ms.to_numpy(), np.asarray(weights)
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99], weights=shares, method="inverted_cdf")
    mean = float(np.average(values, weights=shares))
    return Latency(mean_ms=round(mean, 4), p50_ms=round(p50, 4), p95_ms=round(p95, 4), p99_ms=round(p99, 4))


def _aborted(errors: str) -> set[str]:
    """The clients that gave up after an error that is not theirs to try again."""
    return set(re.findall(r"client (\d+) aborted", errors))
