"""The mix grows as its kinds do together: what reads every row in proportion to them, what looks one up hardly at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from comporta.capacity.model import Latency, RungResult
from comporta.capacity.models.kinds import kinds_of
from comporta.capacity.models.performance import fit_performance

CALLS = {"search": 10, "read": 990}


def mean_ms(kind: str, size: float) -> float:
    """Alone on the server: a search of 20 ms and 80 ms for each size, a look-up that hardly notices the rows."""
    return 20 + 80 * size if kind == "search" else 1.0 * size**0.1


def rungs(
    sizes: Sequence[float], *, noise: float = 0.0, seed: int = 1, clients: Sequence[int] = (1, 2, 4, 8)
) -> list[RungResult]:
    """A server that does one thing after another: each client waits for all others."""
    random = np.random.default_rng(seed)
    made = []
    for size in sizes:
        for n in clients:
            luck = float(np.exp(noise * random.standard_normal()))
            times = {kind: n * luck * mean_ms(kind, size) for kind in CALLS}
            mean = sum(CALLS[kind] * times[kind] for kind in CALLS) / 1000
            made.append(
                RungResult(
                    state="before", size=size, clients=n, round=1, rows=1, seconds=2, transactions=1000, failed=0,
                    throughput_per_s=1000 * n / mean, latency=all_alike(mean),
                    by_transaction={kind: all_alike(time) for kind, time in times.items()}, calls=CALLS, wal_bytes=0,
                )
            )  # fmt: skip
    return made


def all_alike(ms: float) -> Latency:
    return Latency(mean_ms=ms, p50_ms=ms, p95_ms=ms, p99_ms=ms)


@pytest.mark.parametrize("sizes", [(1.0, 2.0), (1.0, 2.0, 4.0), (0.5, 1.0)])
def test_each_kind_grows_by_its_own_law(sizes: tuple[float, ...]) -> None:
    kinds = kinds_of(rungs(sizes))
    assert kinds is not None
    assert kinds.scans.tolist() == [False, True]  # by name: read, search
    read, search = kinds.growth
    assert read == pytest.approx(0.1)
    assert search == pytest.approx(80 * sizes[0] / (20 + 80 * sizes[0]))
    whole = {size: sum(CALLS[kind] * mean_ms(kind, size) for kind in CALLS) for size in (1.0, 4.0)}
    assert kinds.slowness(np.array([1.0, 4.0])) == pytest.approx([0.0, np.log(whole[4.0] / whole[1.0])])


@pytest.mark.parametrize("missing", [{"by_transaction": {}}, {"size": 1.0}])
def test_kinds_that_were_not_timed_or_at_one_size_only_tell_nothing(missing: dict[str, object]) -> None:
    assert kinds_of([each.model_copy(update=missing) for each in rungs((1.0, 2.0))]) is None


def test_a_kind_that_a_size_did_not_draw_counts_as_not_growing() -> None:
    some = [
        each.model_copy(update={"by_transaction": {"read": each.by_transaction["read"]}}) if each.size == 2 else each
        for each in rungs((1.0, 2.0))
    ]
    kinds = kinds_of(some)
    assert kinds is not None
    assert kinds.growth[1] == 0


def test_the_next_size_is_told_by_the_kinds_where_their_sum_alone_does_not_tell_it() -> None:
    """Twice the rows are 1.4 times the time, and four times the rows 2.2 times: neither by a power, nor told by one."""
    errors: dict[bool, list[float]] = {True: [], False: []}
    truth = rungs((4.0,))
    for seed in range(20):
        seen = rungs((1.0, 2.0), noise=0.03, seed=seed)
        for by_kind, found in errors.items():
            data = seen if by_kind else [each.model_copy(update={"by_transaction": {}}) for each in seen]
            model = fit_performance("before", data)
            assert model is not None
            told = [float(model.throughput(each.clients, 4.0).value) / each.throughput_per_s for each in truth]
            found.append(float(np.median(np.abs(np.array(told) - 1))))
    assert np.median(errors[True]) < 0.06
    assert np.median(errors[True]) < np.median(errors[False])
