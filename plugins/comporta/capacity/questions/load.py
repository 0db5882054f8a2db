"""How many people can be served, and until when: p95 under the load of a day, clients at the objective, the highest rate.

The clients that a rate needs are those whose throughput reaches it (closed loop: Little's law, N = X * R). A rate that no number of
clients reaches is saturation: no latency meets any objective then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from comporta.capacity.model import BEFORE
from comporta.capacity.models import Draws, Performance
from comporta.capacity.questions.outlook import FAR, Outlook, band, line, tidy
from comporta.capacity.questions.told import Told
from comporta.capacity.questions.wording import count, dated, in_ms, in_state, spread, unknown

MOST = 1000  # clients, beyond which no number is said
FEW = 9  # days on which the clients that can be served are told


def p95(outlook: Outlook) -> Told:
    """The day on which p95 passes its objective, by state: at the load that grows, or at the scenario's clients."""
    objective = outlook.plan.objectives.p95_ms
    told = Told()
    for state, performance in _measured(outlook, told, "p95", f"p95 within {objective:g} ms"):
        clients = needed(outlook, performance)
        latency = performance.latency("p95", clients, outlook.size)
        when = outlook.crosses(latency, objective)
        told.days[state], told.now[state] = when, latency[0]
        told.answers.append(
            dated(
                outlook,
                when,
                question="p95",
                subject="p95",
                state=state,
                objective=f"p95 within {objective:g} ms",
                holds=f"{in_state(state, outlook.release)}, p95 stays within {objective:g} ms {_under(outlook)}",
                also=f"Now {_served(latency[0], clients[0])}, on {outlook.end} {_served(latency[-1], clients[-1])}.",
                amount=band(latency[0]) if np.isfinite(latency[0].band()[1]) else None,
                unit="ms",
                assumptions=_assumptions(outlook, performance, clients),
            )
        )
        told.draw("p95", outlook.line(state, latency, "ms"))
    if told.series:
        told.draw("p95", outlook.level("objective", objective, "ms"))
    return told


def clients(outlook: Outlook) -> Told:
    """How many clients are served at the objective, now and at the end; and until when they are as many as they must be."""
    objectives, told = outlook.plan.objectives, Told()
    objective = f"{objectives.clients} clients at once with p95 within {objectives.p95_ms:g} ms"
    for state, performance in _measured(outlook, told, "clients", objective):
        when = outlook.crosses(performance.latency("p95", objectives.clients, outlook.size), objectives.p95_ms)
        days = outlook.some(FEW)  # each costs a search, in every draw
        served = performance.clients_within("p95", objectives.p95_ms, outlook.size[days])
        told.days[state], told.now[state] = when, whole(served[0])
        told.answers.append(
            dated(
                outlook,
                when,
                question="clients",
                subject="clients",
                state=state,
                objective=objective,
                holds=f"{in_state(state, outlook.release)}, {objectives.clients} clients at once are served with p95 within "
                f"{objectives.p95_ms:g} ms",
                also=f"It serves {most(served[0])} clients now, {most(served[-1])} on {outlook.end}.",
                amount=band(whole(served[0])),
                unit="clients",
                assumptions=_assumptions(outlook, performance, served),
            )
        )
        told.draw("clients", line(state, [outlook.days[n].isoformat() for n in days], served, "clients"))
    if told.series:
        told.draw("clients", outlook.level("objective", objectives.clients, "clients"))
    return told


def throughput(outlook: Outlook) -> Told:
    """The highest rate that can be served, and when the busiest time asks for more."""
    told, rate = Told(), outlook.rate
    for state, performance in _measured(outlook, told, "throughput", "the rate of the busiest time"):
        at, highest = performance.peak(outlook.size)
        asked = (
            "" if rate is None else f" of {count(float(rate.value[0]))}/s now, {count(float(rate.value[-1]))}/s then"
        )
        also = (
            f"At most {spread(band(highest[0]))} transactions a second now, {spread(band(highest[-1]))} on {outlook.end}, "
            f"with {count(float(at.value[0]))} clients now."
        )
        if rate is None:
            told.answers.append(
                unknown("throughput", "throughput", state, "the rate of the busiest time", "production recorded no rate")
                .model_copy(update={"amount": band(highest[0]), "unit": "/s", "text": also})
            )  # fmt: skip
            continue
        when = outlook.crosses(rate, highest)
        told.days[state], told.now[state] = when, highest[0]
        told.answers.append(
            dated(
                outlook,
                when,
                question="throughput",
                subject="throughput",
                state=state,
                objective="the rate of the busiest time",
                holds=f"{in_state(state, outlook.release)}, the busiest time's rate{asked} can be served",
                also=also,
                amount=band(highest[0]),
                unit="/s",
                assumptions=_assumptions(outlook, performance, at),
            )
        )
    return told


def ladders(outlook: Outlook) -> Told:
    """Throughput and p95 against clients: the model with its band, and the measured points, before and after the release."""
    told = Told()
    for state in dict.fromkeys((BEFORE, outlook.release)):
        performance = outlook.fitted.performance.get(state)
        if performance is None:
            continue
        x = np.unique(np.concatenate([np.arange(1, 9), np.geomspace(8, 2 * performance.clients[-1], 16).round()]))
        for size in performance.sizes:
            rungs = [rung for rung in outlook.measured.of(state) if rung.size == size]
            ticks = [float(rung.clients) for rung in rungs]
            name = f"{state} · {size:g}x"
            told.draw("throughput", line(name, x.tolist(), performance.throughput(x, size), "/s"))
            told.draw("latency", line(name, x.tolist(), performance.latency("p95", x, size), "ms"))
            for plot, unit, values in (
                ("throughput", "/s", [rung.throughput_per_s for rung in rungs]),
                ("latency", "ms", [rung.latency.p95_ms for rung in rungs]),
            ):
                points = line(f"{name} · measured", ticks, Draws.exactly(values), unit)
                told.draw(plot, points.model_copy(update={"low": (None,) * len(rungs), "high": (None,) * len(rungs)}))
    return told


def needed(outlook: Outlook, performance: Performance) -> Draws:
    """Clients at once on each day: the scenario's, or those that the recorded rate needs, or the objective's."""
    fixed = outlook.scenario.clients
    if fixed is None and outlook.rate is not None:
        return performance.clients_at(outlook.rate, outlook.size)
    return Draws.exactly(np.full(len(outlook.days), float(fixed or outlook.plan.objectives.clients)))


def most(served: Draws) -> str:
    """So many clients, as whole ones; at the end of the model ``more than 1,000``."""
    found = band(whole(served))
    if found.low >= MOST:
        return f"more than {MOST:,}"
    return spread(found, lambda value: f"more than {MOST:,}" if value >= MOST else count(value))


def whole(served: Draws) -> Draws:
    """Clients are whole."""
    return tidy(Draws(np.floor(served.value + 1e-9), np.floor(served.draws + 1e-9)))


def _measured(outlook: Outlook, told: Told, question: str, objective: str) -> Sequence[tuple[str, Performance]]:
    """States with a model, in their order; those without are answered at once."""
    for state in outlook.measured.states:
        if state not in outlook.fitted.performance:
            why = f"too few rungs were measured {in_state(state, outlook.release)}"
            told.answers.append(unknown(question, question, state, objective, why))
    return [(state, fit) for state in outlook.measured.states if (fit := outlook.fitted.performance.get(state))]


def _under(outlook: Outlook) -> str:
    if outlook.scenario.clients is not None:
        return f"with {outlook.scenario.clients} clients at once"
    if outlook.rate is None:
        return f"with {outlook.plan.objectives.clients} clients at once (no rate was recorded)"
    return "at the busiest time"


def _served(latency: Draws, clients: Draws) -> str:
    if not np.isfinite(latency.value):
        return "saturated: no number of clients reaches the rate"
    say: Callable[[float], str] = lambda value: in_ms(value) if np.isfinite(value) else "saturated"  # noqa: E731 - a name for what is handed on
    low, high = (float(end) for end in latency.band())
    return f"{say(float(latency.value))} (80 %: {say(low)} to {say(high)}) with {float(clients.value):.1f} clients"


def _assumptions(outlook: Outlook, performance: Performance, clients: Draws) -> tuple[str, ...]:
    """What is taken for granted, with how far beyond the measured sizes and clients the answer reaches."""
    found = []
    if outlook.scenario.clients is None and outlook.rate is None:
        found.append(f"production recorded no rate: {outlook.plan.objectives.clients} clients stand for its load")
    for what, reached, largest in (
        ("rows", float(np.nanmax(outlook.size.value)), performance.sizes[-1]),
        ("clients at once", _largest(clients), float(performance.clients[-1])),
    ):
        if reached > largest * 1.05:
            far = " far" if reached > FAR * largest else ""
            found.append(f"reaches{far} beyond what was measured: {reached / largest:.1f} times the most {what}")
    return tuple(found)


def _largest(clients: Draws) -> float:
    finite = clients.value[np.isfinite(clients.value)]
    return float(finite.max()) if finite.size else 0.0
