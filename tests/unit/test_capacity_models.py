"""The load models: what they recover of known parameters, what they make of odd ladders, and when a naive rule stands in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from comporta.capacity.model import FitReport, Latency, RungResult
from comporta.capacity.models import Draws, Performance
from comporta.capacity.models.performance import fit_performance
from comporta.capacity.models.trial import tried_performance
from comporta.capacity.models.usl import fit_usl

CLIENTS = (1, 2, 4, 8, 16)
SIZES = (1.0, 2.0, 4.0)


def law(lam: float, sigma: float, kappa: float, alpha: float) -> Callable[[float, float], float]:
    def rate(n: float, size: float) -> float:
        return float(lam * size**-alpha * n / (1 + sigma * (n - 1) + kappa * n * (n - 1)))

    return rate


def rung(state: str, n: int, size: float, number: int, rate: float, p95_ms: float) -> RungResult:
    mean = 1000 * n / rate
    return RungResult(
        state=state,
        size=size,
        clients=n,
        round=number,
        rows=int(300_000 * size),
        seconds=4,
        transactions=int(4 * rate) + 1,
        failed=0,
        throughput_per_s=rate,
        latency=Latency(mean_ms=mean, p50_ms=0.5 * mean, p95_ms=p95_ms, p99_ms=2 * p95_ms),
        by_transaction={},
        calls={},
        wal_bytes=int(4 * rate * 900),
    )


def three_times(n: float, size: float) -> float:
    return 3.0


def ladder(
    rate: Callable[[float, float], float],
    seed: int = 1,
    *,
    noise: float = 0.05,
    ratio: Callable[[float, float], float] = three_times,
    clients: Sequence[int] = CLIENTS,
    sizes: Sequence[float] = SIZES,
    rounds: int = 2,
    state: str = "before",
) -> list[RungResult]:
    random = np.random.default_rng(seed)

    def luck(spread: float) -> float:
        return float(np.exp(spread * random.standard_normal()))

    return [
        rung(state, n, size, number, x := rate(n, size) * luck(noise), 1000 * n / x * ratio(n, size) * luck(2 * noise))
        for size in sizes
        for n in clients
        for number in range(1, rounds + 1)
    ]


def fitted(rungs: list[RungResult]) -> Performance:
    model = fit_performance("before", rungs)
    assert model is not None
    return model


def report_of(reports: tuple[FitReport, ...], subject: str) -> FitReport:
    return next(each for each in reports if each.subject.startswith(subject))


def two_cores(n: float, size: float) -> float:
    """A closed queue before two processors: a sharp knee, which the law itself does not have."""
    demand_s, pause_s = 0.001 * (0.6 + 0.4 * size), 0.0002
    odds = [1.0]
    for busy in range(1, int(n) + 1):
        odds.append(odds[-1] * (n - busy + 1) / pause_s / (min(busy, 2) / demand_s))
    return sum(odd * min(busy, 2) for busy, odd in enumerate(odds)) / sum(odds) / demand_s


def test_known_parameters_lie_within_their_intervals_in_nine_of_ten_draws() -> None:
    random = np.random.default_rng(7)
    hits = {"lam": 0, "sigma": 0, "kappa": 0}
    draws = 200
    for seed in range(draws):
        truth = {"lam": random.uniform(100, 2000), "sigma": random.uniform(0, 0.5), "kappa": random.uniform(0, 0.02)}
        rungs = ladder(law(**truth, alpha=random.uniform(0, 0.8)), seed)
        found = fit_usl(
            [r.clients for r in rungs], [r.size for r in rungs], [r.throughput_per_s for r in rungs]
        ).parameters
        for parameter in found:
            if parameter.name in truth:
                hits[parameter.name] += parameter.low <= truth[parameter.name] <= parameter.high
    assert {name: hit / draws >= 0.9 for name, hit in hits.items()} == dict.fromkeys(hits, True), hits


@pytest.mark.parametrize(
    ("rate", "course"),
    [
        pytest.param(law(500, 0.0, 0.0, 0.2), "scales", id="each client brings as much as the first"),
        pytest.param(law(500, 0.9, 0.0, 0.2), "saturated", id="contention"),
        pytest.param(two_cores, "saturated", id="two processors"),
        pytest.param(law(500, 0.05, 0.03, 0.2), "retrograde", id="coherency"),
        pytest.param(law(500, 1.0, 0.0, 0.0), "saturated", id="flat"),
    ],
)
def test_the_course_of_a_ladder_is_told(rate: Callable[[float, float], float], course: str) -> None:
    assert fitted(ladder(rate)).course(1.0) == course


def test_a_ladder_of_pure_chance_is_called_noisy() -> None:
    assert fitted(ladder(law(500, 0.3, 0.001, 0.2), noise=1.5)).course(1.0) == "noisy"


def test_two_numbers_of_clients_are_not_enough_data() -> None:
    model, reports = tried_performance("before", ladder(law(500, 0.1, 0.001, 0.2), clients=(1, 2)))
    assert model is None
    assert "not enough data" in reports[0].why
    assert not reports[0].used


def test_the_peak_of_a_retrograde_ladder_is_found_with_its_interval() -> None:
    clients, rate = fitted(ladder(law(500, 0.05, 0.02, 0.0), noise=0.02)).peak(1.0)
    true_clients = np.sqrt(0.95 / 0.02)
    low, high = clients.band(0.95)
    assert low <= true_clients <= high
    assert rate.value == pytest.approx(law(500, 0.05, 0.02, 0.0)(true_clients, 1), rel=0.1)


def test_clients_needed_for_a_rate_give_that_rate_and_none_do_beyond_the_peak() -> None:
    rate = law(500, 0.2, 0.01, 0.3)
    model = fitted(ladder(rate, noise=0.01))
    needed = model.clients_at([200.0, 600.0, 5000.0], 1.0)
    assert needed.value[0] == 1
    assert rate(float(needed.value[1]), 1) == pytest.approx(600, rel=0.05)
    assert np.isnan(needed.value[2])


def test_clients_within_a_limit_have_that_latency() -> None:
    model = fitted(ladder(law(500, 0.2, 0.001, 0.3), noise=0.01))
    most = model.clients_within("p95", 20.0, [1.0, 4.0])
    assert most.value[0] > most.value[1]
    assert model.latency("p95", float(most.value[0]), 1.0).value == pytest.approx(20, rel=0.05)
    assert model.clients_within("p95", 0.1, 1.0).value == 0


def test_draws_of_the_arguments_meet_the_same_draws_of_the_model() -> None:
    model = fitted(ladder(law(500, 0.2, 0.001, 0.3)))
    sizes = Draws.of(np.linspace(1, 8, 400))
    answer = model.throughput(4, sizes)
    assert answer.draws[0] == pytest.approx(model.throughput(4, 1.0).draws[0])
    assert answer.draws[-1] == pytest.approx(model.throughput(4, 8.0).draws[-1])
    assert model.throughput([[1.0], [4.0]], [1.0, 2.0, 4.0]).value.shape == (2, 3)


def test_the_same_rungs_give_the_same_draws() -> None:
    rungs = ladder(law(500, 0.2, 0.001, 0.3))
    assert (fitted(rungs).throughput(32, 8).draws == fitted(rungs[::-1]).throughput(32, 8).draws).all()


def test_one_freak_rung_does_not_bend_the_curve() -> None:
    rate = law(500, 0.1, 0.002, 0.3)
    rungs = ladder(rate, noise=0.02)
    spoilt = [rung("before", r.clients, r.size, r.round, 60.0, 500.0) if k == 13 else r for k, r in enumerate(rungs)]
    assert fitted(spoilt).throughput(32, 4).value == pytest.approx(rate(32, 4), rel=0.15)


@pytest.mark.parametrize("rate", [law(500, 0.15, 0.001, 0.3), two_cores], ids=["the law", "two processors"])
def test_the_next_rung_is_told_within_ten_and_twenty_five_percent(rate: Callable[[float, float], float]) -> None:
    errors: dict[str, list[float]] = {}
    for seed in range(5):
        _, reports = tried_performance(
            "before", ladder(rate, seed, noise=0.04, ratio=lambda n, s: 3.0 * n**0.1 * s**0.1)
        )
        for subject in ("throughput", "p95"):
            for held in report_of(reports, subject).held_out:
                errors.setdefault(f"{subject}, {held.what.split(':')[0]}", []).append(held.error)
    medians = {what: float(np.median(values)) for what, values in errors.items()}
    assert len(medians) == 4
    assert all(value <= (0.1 if what.startswith("throughput") else 0.25) for what, value in medians.items()), medians


def test_a_model_worse_than_a_naive_rule_gives_way_to_the_rule_and_says_so() -> None:
    def stairs(n: float, size: float) -> float:
        return {1: 100.0, 2: 200.0, 4: 400.0, 8: 100.0, 16: 100.0}[int(n)]

    _, good = tried_performance("before", ladder(law(500, 0.1, 0.001, 0.3), noise=0.03))
    model, bad = tried_performance("before", ladder(stairs, noise=0.01))
    assert model is not None
    assert report_of(good, "throughput").used
    report = report_of(bad, "throughput")
    assert not report.used
    assert "the rule 'last rung' is used" in report.why
    assert model.throughput(64, 1).value == pytest.approx(100, rel=0.1)


def test_two_sizes_are_not_enough_for_the_test_on_the_next_size() -> None:
    model, reports = tried_performance(
        "before", ladder(law(500, 0.1, 0.001, 0.3), clients=(1, 2, 4, 8), sizes=(1.0, 2.0), rounds=1)
    )
    assert model is not None
    assert "next size rung: not enough data" in report_of(reports, "throughput").why


def test_a_state_with_few_rungs_takes_the_shape_of_another_and_its_own_height() -> None:
    rate = law(500, 0.1, 0.001, 0.3)
    model = fitted(ladder(rate))
    few = ladder(lambda n, s: 2 * rate(n, s), clients=(4,), sizes=(1.0, 2.0), state="opt1", noise=0.02)
    like = model.like("opt1", few)
    assert like.throughput(16, 4).value == pytest.approx(2 * rate(16, 4), rel=0.1)
    assert like.latency("p95", 16, 4).value == pytest.approx(0.5 * model.latency("p95", 16, 4).value, rel=0.1)
    low, high = like.throughput(16, 4).band()
    assert low < high


def test_a_missing_answer_ranks_above_every_number() -> None:
    draws = np.arange(400, dtype=float)
    draws[300:] = np.nan
    answer = Draws.of(draws)
    low, high = answer.band()
    assert (answer.value, low) == (200, 40)
    assert np.isnan(high)
