"""What each change buys: how much later an objective is passed with it than without it, and by how much things are better today."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from comporta.capacity.model import Answer, Band
from comporta.capacity.models import Draws
from comporta.capacity.questions.outlook import Outlook, band, tidy, within
from comporta.capacity.questions.told import Told
from comporta.capacity.questions.wording import capital, count, in_bytes, in_ms

DAYS_A_MONTH = 30.4375


@dataclass(frozen=True)
class Gain:
    """One thing that changes may better: ``sign`` is 1 where more is better."""

    subject: str
    unit: str
    sign: int
    better: str
    worse: str
    say: Callable[[float], str]


GAINS = (
    Gain("p95", "ms", -1, "faster at p95", "slower at p95", in_ms),
    Gain("disk", "bytes", -1, "smaller", "larger", in_bytes),
    Gain("clients", "clients", 1, "more clients at the objective", "fewer clients at the objective", count),
)


def buys(outlook: Outlook, told: Mapping[str, Told]) -> Told:
    """For each change the months that it adds, by subject: the day with it minus the day without it, draw by draw.

    A day beyond the outlook counts as its end, so that months are then a lower bound, and the sentence says so. Where both days
    are beyond it, or both are past, there are no months to tell: the answer is what is better today.
    """
    answers = [
        answer
        for without, state in zip(outlook.measured.states, outlook.measured.states[1:], strict=False)
        for gain in GAINS
        if (answer := _bought(outlook, gain, told[gain.subject], without, state)) is not None
    ]
    return Told(answers=answers)


def _bought(outlook: Outlook, gain: Gain, told: Told, without: str, state: str) -> Answer | None:
    if without not in told.days or state not in told.days:
        return None
    before, after = told.days[without], told.days[state]
    change = _change(gain, told.now[without], told.now[state])
    today = _today(gain, told.now[without], told.now[state], change)
    end = float((outlook.end - outlook.now).days)
    months = within(after, end) - within(before, end)
    months = tidy(Draws(months.value / DAYS_A_MONTH, months.draws / DAYS_A_MONTH))
    first, last = sorted((float(before.value), float(after.value)))
    if first >= end or last == 0:
        held = "past either way" if float(after.value) == 0 else f"kept until {outlook.end} either way"
        text, amount, unit = (
            f"{state} moves no date of {gain.subject} ({held}): {today}.",
            change,
            gain.unit,
        )
    else:
        text = f"{state} {_moved(gain, band(months), before, after)}; today {today}."
        amount, unit = months, "months"
    return Answer(
        question="buys",
        subject=gain.subject,
        state=state,
        verdict="met",
        objective="",
        text=capital(text),
        amount=band(amount) if np.isfinite(amount.value) and np.isfinite(np.asarray(amount.band())).all() else None,
        unit=unit,
        assumptions=(f"compared with {without}",),
    )


def _change(gain: Gain, without: Draws, state: Draws) -> Draws:
    change = state - without
    return tidy(Draws(change.value * gain.sign, change.draws * gain.sign))


def _today(gain: Gain, without: Draws, state: Draws, change: Draws) -> str:
    served, was_served = np.isfinite(state.value), np.isfinite(without.value)
    if not served:
        return "the load is not served, which it was without it" if was_served else "the load is not served either way"
    if not was_served:
        return "the load is served, which it was not without it"
    low, high = change.band()
    if not (low > 0 or high < 0):
        return "no difference that stands out from the noise"
    return f"{gain.say(abs(float(change.value)))} {gain.better if change.value > 0 else gain.worse}"


def _moved(gain: Gain, months: Band, before: Draws, after: Draws) -> str:
    """``buys 14 months of p95 (80 %: 12 to 16)``; a day beyond the outlook makes it ``at least``."""
    low, high = round(months.low), round(months.high)
    if low < 0 < high:
        return f"moves the date of {gain.subject} by no more than the noise (80 %: {low} to {high} months)"
    least = "at least " if not np.isfinite(after.value if months.value >= 0 else before.value) else ""
    near, far = sorted((abs(low), abs(high)))
    whole = f"{abs(months.value):.0f} month{'' if round(abs(months.value)) == 1 else 's'}"
    interval = f"{least}{near}" if least else f"{near} to {far}"
    return f"{'buys' if months.value >= 0 else 'costs'} {least}{whole} of {gain.subject} (80 %: {interval})"
