"""The backend is terminated at each statement boundary of apply and rollback, and within slow statements; a new run converges."""

from __future__ import annotations

from comporta.validation.trial import Step, Trial

INSIDE_AFTER_S = (0.06, 0.6)


def run(trial: Trial) -> None:
    for step in trial.forward:
        _cut_everywhere(trial, step)
    trial.apply()
    for step in trial.backward:
        _cut_everywhere(trial, step)
        trial.complete(step)


def _cut_everywhere(trial: Trial, step: Step) -> None:
    """Each run goes one statement further than the one before: what is done must be passed over, the rest continued."""
    boundaries = len(step.script.statements)
    trial.say(f"  {step}: cut at each of {boundaries - 1} boundaries, and within what is slow")
    for number in range(2, boundaries + 2):
        for delay in INSIDE_AFTER_S:
            if not trial.cut(step, number, inside_after_s=delay):
                break
        else:
            if number <= boundaries:
                trial.cut(step, number)
