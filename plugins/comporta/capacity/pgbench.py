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

import pandas as pd
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from comporta.capacity.model import Latency
from comporta.errors import ComportaError
from comporta.postgres.tools import client_program

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
class Load:
    """What one run of pgbench showed, without its warm-up. ``cut_off`` is True when it had to be ended."""

    seconds: float
    transactions: int
    failed: int
    latency: Latency
    by_transaction: Mapping[str, Latency]
    calls: Mapping[str, int]
    cut_off: bool

    @property
    def throughput_per_s(self) -> float:
        """Transactions that were answered, per second."""
        return self.transactions / self.seconds if self.seconds else 0.0


def run_load(
    dsn: str,
    scripts: Sequence[WeightedScript],
    *,
    clients: int,
    seconds: float,
    warm_up_s: float,
    longest_s: float,
    seed: int,
    variables: Mapping[str, int],
) -> Load:
    """Let ``clients`` work for ``warm_up_s`` + ``seconds``; what ended in the warm-up does not count.

    A statement that takes longer than ``longest_s`` is cancelled and its transaction counted as failed. ``variables`` are what
    the scripts read besides their own. Raises LoadFailed when nothing was answered at all.
    """
    with tempfile.TemporaryDirectory(prefix="comporta-load-") as folder:
        command, environment = _command(dsn, scripts, clients, seconds + warm_up_s, longest_s, seed, variables, folder)
        # The clients' own run, twice the longest statement for those under way at its end, and room to connect.
        patience = warm_up_s + seconds + 2 * longest_s + 10.0
        cut_off = False
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
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
    return load_of(log, scripts, warm_up_s, seconds, len(_aborted(errors)), cut_off=cut_off)


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


def load_of(
    log: pd.DataFrame,
    scripts: Sequence[WeightedScript],
    warm_up_s: float,
    seconds: float,
    aborted: int,
    *,
    cut_off: bool = False,
) -> Load:
    """What the lines of pgbench's log say; times in them are us, ``aborted`` clients left no line of their last transaction."""
    ended = log["epoch_s"] + log["epoch_us"] / 1e6
    took = pd.to_numeric(log["time_us"], errors="coerce") / 1000  # ms; NaN: failed
    begun = float((ended - took.fillna(0) / 1000).min()) + warm_up_s
    # The rate is of what ended in the window. The times are also of what was under way at its end: dropping the long ones would
    # flatter the percentiles.
    counted = ended >= begun
    good = counted & took.notna()
    answered = int((good & (ended <= begun + seconds)).sum())
    by_script = {scripts[int(number)].name: times for number, times in took[good].groupby(log.loc[good, "script"])}
    return Load(
        seconds=seconds,
        transactions=answered,
        failed=int((counted & took.isna()).sum()) + aborted,
        latency=_latency(took[good]),
        by_transaction={name: _latency(times) for name, times in by_script.items()},
        calls={name: len(times) for name, times in by_script.items()},
        cut_off=cut_off,
    )


def _latency(times_ms: pd.Series[float]) -> Latency:
    if times_ms.empty:
        return Latency(mean_ms=0.0, p50_ms=0.0, p95_ms=0.0, p99_ms=0.0)
    p50, p95, p99 = (round(float(value), 4) for value in times_ms.quantile([0.5, 0.95, 0.99]))
    return Latency(mean_ms=round(float(times_ms.mean()), 4), p50_ms=p50, p95_ms=p95, p99_ms=p99)


def _aborted(errors: str) -> set[str]:
    """The clients that gave up after an error that is not theirs to try again."""
    return set(re.findall(r"client (\d+) aborted", errors))
