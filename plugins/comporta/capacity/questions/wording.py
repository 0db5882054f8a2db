"""Answers as sentences, and the one rule by which a day becomes a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from comporta.capacity.model import BEFORE, Answer, Band
from comporta.capacity.models import Draws
from comporta.capacity.questions.outlook import Outlook, band


def dated(
    outlook: Outlook,
    when: Draws,
    *,
    question: str,
    subject: str,
    state: str,
    objective: str,
    holds: str,
    also: str = "",
    amount: Band | None = None,
    unit: str = "",
    assumptions: Sequence[str] = (),
) -> Answer:
    """The answer to a question for a day: ``holds`` is the sentence that is true until then (``p95 stays within 250 ms``).

    ``not_met``: it is false today. ``met_until``: false on a day of the outlook. ``met``: true to the end of the scenario.
    ``not_enough_data``: true as far as the history carries, and that is not far enough.
    """
    low, high = (outlook.day(float(end)) for end in when.band())
    day = outlook.day(float(when.value))
    at_worst = f" At worst (one case in ten) until {low}." if low is not None else ""
    if day == outlook.now:
        verdict, text = "not_met", f"{holds}: not so today."
        high = high if high != day else None
        day, low, high = outlook.now, outlook.now, high or outlook.now
    elif day is not None:
        verdict = "met_until"
        text = f"{holds} until {day} (80 %: {low} to {high or f'after {outlook.end}'})."
    elif outlook.reaches:
        verdict, text = "met", f"{holds} until {outlook.end} and after.{at_worst}"
    elif outlook.end > outlook.now:
        verdict, text = "not_enough_data", f"{holds} until {outlook.end}; {outlook.short}.{at_worst}"
    else:
        verdict, text = "not_enough_data", f"{holds} today; for how long is not known: {outlook.short}."
    return Answer(
        question=question,
        subject=subject,
        state=state,
        verdict=verdict,
        objective=objective,
        text=capital(f"{text} {also}".strip()),
        date=day,
        low=low,
        high=high,
        amount=amount,
        unit=unit,
        assumptions=tuple(assumptions),
        why=outlook.short if verdict == "not_enough_data" else "",
    )


def unknown(question: str, subject: str, state: str, objective: str, why: str) -> Answer:
    """The answer that nothing is known."""
    return Answer(
        question=question,
        subject=subject,
        state=state,
        verdict="not_enough_data",
        objective=objective,
        text=capital(f"{subject}: not enough data, {why}."),
        why=why,
    )


def number(
    question: str, subject: str, state: str, text: str, amount: Draws, unit: str, assumptions: Sequence[str] = ()
) -> Answer:
    """An answer that is a number and has no objective."""
    return Answer(
        question=question,
        subject=subject,
        state=state,
        verdict="met",
        objective="",
        text=capital(text),
        amount=band(amount),
        unit=unit,
        assumptions=tuple(assumptions),
    )


def in_state(state: str, release: str) -> str:
    """How a state is called in a sentence."""
    return "before the release" if state == BEFORE else "with the release" if state == release else f"with {state}"


def capital(text: str) -> str:
    """The text as a sentence; a name (``catalogue.geometrias``, ``p95``) is spelt as it is."""
    first = text.partition(" ")[0].rstrip(".,:;")
    return text if any(mark in first for mark in "._0123456789") else text[:1].upper() + text[1:]


def in_bytes(count: float) -> str:
    """Bytes in decimal units."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"


def in_seconds(seconds: float) -> str:
    """A duration, as long ones are said."""
    units = (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800), ("days", 86_400, float("inf")))
    unit, length, _ = next(each for each in units if seconds < each[2])
    return f"{seconds / length:.2g} {unit}" if seconds / length < 10 else f"{seconds / length:.0f} {unit}"


def in_ms(value: float) -> str:
    return f"{value:.2g} ms" if value < 10 else f"{value:,.0f} ms"


def count(value: float) -> str:
    """A number of things, to three figures when there are many."""
    if not np.isfinite(value):
        return "no"
    return f"{value:,.0f}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def spread(found: Band, say: Callable[[float], str] = count) -> str:
    """``12 (80 %: 10 to 15)``."""
    return f"{say(found.value)} (80 %: {say(found.low)} to {say(found.high)})"
