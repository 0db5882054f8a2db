"""What keeping it all up takes: refreshes of views, connections, memory, WAL, and the release itself."""

from __future__ import annotations

import numpy as np

from comporta.capacity.model import BEFORE, Refresh
from comporta.capacity.models import Draws
from comporta.capacity.questions.outlook import Outlook, band, total
from comporta.capacity.questions.told import Told
from comporta.capacity.questions.wording import count, dated, in_bytes, in_seconds, in_state, number, spread, unknown

DAY_S = 86_400


def refreshes(outlook: Outlook) -> Told:
    """How much of its interval the refresh of each view takes, and when that is more than the plan allows."""
    told, share = Told(), outlook.plan.objectives.refresh_share
    objective = f"a refresh takes at most {share:.0%} of its interval"
    for state in dict.fromkeys((BEFORE, outlook.release)):
        for view, refresh in _views(outlook, state).items():
            model = outlook.fitted.refresh_s.get((state, view))
            if model is None:
                told.answers.append(unknown("refresh", view, state, objective, "its refresh was not measured"))
                continue
            takes = model.at(outlook.facts_rows)
            told.draw("refresh", outlook.line(f"{view} · {state}", takes, "s"))
            took = f"A refresh takes {in_seconds(float(takes.value[0]))} now"
            if outlook.end > outlook.now:
                took += f", {spread(band(takes[-1]), in_seconds)} on {outlook.end}"
            if refresh.interval_s is None:
                why = "nobody schedules its refresh"
                told.answers.append(
                    unknown("refresh", view, state, objective, why).model_copy(
                        update={"amount": band(takes[-1]), "unit": "s", "text": f"{view}: {why}. {took}."}
                    )
                )
                continue
            when = outlook.crosses(takes, share * refresh.interval_s)
            told.answers.append(
                dated(
                    outlook,
                    when,
                    question="refresh",
                    subject=view,
                    state=state,
                    objective=objective,
                    holds=f"{in_state(state, outlook.release)}, {view} is refreshed within {share:.0%} of its "
                    f"{in_seconds(refresh.interval_s)}",
                    also=f"{took}.",
                    amount=band(takes[-1]),
                    unit="s",
                )
            )
            told.draw("refresh", outlook.level(f"{view} · objective", share * refresh.interval_s, "s"))
    return told


def connections(outlook: Outlook) -> Told:
    """Connections at the busiest time against ``max_connections``, and the memory that they need."""
    told, target, objectives = Told(), outlook.measured.target, outlook.plan.objectives
    limit = objectives.connections_share * target.max_connections
    objective = f"at most {objectives.connections_share:.0%} of {target.max_connections} connections"
    peak = target.connections_peak
    if peak is None and outlook.scenario.clients is None:
        told.answers.append(unknown("connections", "connections", "", objective, "their number was never seen"))
        return told
    used = outlook.load * float(peak or 0)
    if (fixed := outlook.scenario.clients) is not None:
        used = used.then(lambda each: np.maximum(each, float(fixed)))
    grow = "as the rows do" if outlook.plan.load_grows == "with_rows" else "not at all"
    assumptions = (f"connections grow {grow}",)
    told.answers.append(
        dated(
            outlook,
            outlook.crosses(used, limit),
            question="connections",
            subject="connections",
            state="",
            objective=objective,
            holds=f"connections stay within {objectives.connections_share:.0%} of max_connections ({target.max_connections})",
            also=f"{count(float(used.value[0]))} at the busiest time now, {spread(band(used[-1]))} on {outlook.end}.",
            amount=band(used[-1]),
            unit="connections",
            assumptions=assumptions,
        )
    )
    told.draw("connections", outlook.line("peak", used, "connections"))
    told.draw("connections", outlook.level("objective", limit, "connections"))
    _memory(outlook, told, used, assumptions)
    return told


def _memory(outlook: Outlook, told: Told, used: Draws, assumptions: tuple[str, ...]) -> None:
    objectives, target = outlook.plan.objectives, outlook.measured.target
    whole = target.memory_bytes or outlook.plan.memory_bytes
    objective = f"at most {objectives.memory_share:.0%} of the memory"
    for state in dict.fromkeys((BEFORE, outlook.release)):
        model = outlook.fitted.memory_bytes.get(state)
        if model is None:
            why = f"the memory of a connection was not measured {in_state(state, outlook.release)}"
            told.answers.append(unknown("memory", "memory", state, objective, why))
            continue
        taken = model.at(used)
        told.draw("memory", outlook.line(state, taken, "bytes"))
        if whole is None:
            why = "the server does not tell its memory (capacity.memory_bytes in config/release.yaml)"
            told.answers.append(unknown("memory", "memory", state, objective, why))
            continue
        told.answers.append(
            dated(
                outlook,
                outlook.crosses(taken, objectives.memory_share * whole),
                question="memory",
                subject="memory",
                state=state,
                objective=objective,
                holds=f"{in_state(state, outlook.release)}, the server needs at most {objectives.memory_share:.0%} of its "
                f"{in_bytes(whole)} of memory",
                also=f"{in_bytes(float(taken.value[0]))} now, {spread(band(taken[-1]), in_bytes)} on {outlook.end}.",
                amount=band(taken[-1]),
                unit="bytes",
                assumptions=(
                    *assumptions,
                    "shared buffers and what connections keep; sorts of the moment (work_mem) come on top",
                ),
            )
        )
    if whole is not None and "memory" in told.series:
        told.draw("memory", outlook.level("objective", objectives.memory_share * whole, "bytes"))


def wal(outlook: Outlook) -> Told:
    """WAL a day, before and after the release: bytes of a transaction times the mean rate."""
    told, rate = Told(), outlook.mean_rate
    for state in dict.fromkeys((BEFORE, outlook.release)):
        model = outlook.fitted.wal_bytes.get(state)
        if model is None or rate is None:
            why = "production recorded no rate" if rate is None else f"not measured {in_state(state, outlook.release)}"
            told.answers.append(unknown("wal", "WAL", state, "", why))
            continue
        daily = model.at(outlook.size) * rate * DAY_S
        seen = outlook.measured.target.wal_bytes_per_s
        beside = "" if seen is None else f"; the target writes {in_bytes(seen * DAY_S)} a day now, by its own count"
        told.answers.append(
            number(
                "wal",
                "WAL",
                state,
                f"{in_state(state, outlook.release)}, {spread(band(daily[-1]), in_bytes)} of WAL a day on {outlook.end}, "
                f"{in_bytes(float(daily.value[0]))} with the load of today{beside}.",
                daily[-1],
                "bytes",
                assumptions=("full-page images as often as on the shadow",),
            )
        )
        told.draw("wal", outlook.line(state, daily, "bytes a day"))
    return told


def apply(outlook: Outlook) -> Told:
    """How long the release itself takes to apply, now and with the rows of then."""
    found = {change: model.at(outlook.facts_rows) for change, model in outlook.fitted.apply_s.items()}
    missing = [change for change in outlook.measured.states[1:] if change not in found]
    if not found:
        return Told(answers=[unknown("apply", "apply", outlook.release, "", "no change was timed")])
    whole = total(list(found.values()))
    slowest = max(found, key=lambda change: float(found[change].value[-1]))
    told = Told(
        answers=[
            number(
                "apply",
                "apply",
                outlook.release,
                f"the release takes {in_seconds(float(whole.value[0]))} to apply now and {spread(band(whole[-1]), in_seconds)} on "
                f"{outlook.end}, most of it {slowest}" + (f"; {', '.join(missing)} was not timed." if missing else "."),
                whole[-1],
                "s",
                assumptions=("as on the shadow, and without the soak between changes",),
            )
        ]
    )
    told.draw(
        "apply", outlook.line("release", whole, "s"), *(outlook.line(name, takes, "s") for name, takes in found.items())
    )
    return told


def _views(outlook: Outlook, state: str) -> dict[str, Refresh]:
    return {refresh.view: refresh for facts in outlook.measured.facts_of(state) for refresh in facts.refreshes}
