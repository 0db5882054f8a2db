"""Inserts, updates and deletes after apply and between the statements of the rollback survive; conflicts are told by key."""

from __future__ import annotations

from comporta.demo.late import LateWriter, seed_conflict
from comporta.validation.trial import Moment, Trial, TrialFailed, TrialImpossible


def run(trial: Trial) -> None:
    if not trial.plan.writes_per_s:
        raise TrialImpossible(
            "there is no traffic profile for this catalogue, so nobody wrote late",
            remedy="Give the release's proof section reads and writes per second.",
        )
    trial.apply()
    _try_a_conflict(trial)
    with LateWriter(trial.dsn) as writer:
        try:
            writer.write("after apply")
            trial.fault("late writes", "after apply", "written by another session")
            trial.rollback(lambda moment: _write_late(trial, writer, moment))
            writer.write("after the rollback")
        finally:
            trial.late.append(writer.record())


def _write_late(trial: Trial, writer: LateWriter, moment: Moment) -> None:
    writer.write(moment.place)
    trial.fault("late writes", moment.place, "written by another session")


def _try_a_conflict(trial: Trial) -> None:
    """Two rows of one id, as a replication worker or a repair script can leave them: the rollback keeps both or says so."""
    conflict = seed_conflict(trial.dsn)
    if conflict is None:
        trial.notes.append("The catalogue itself refuses a second row with an id that exists: no conflict can arise.")
        return
    step = trial.backward[-1]
    phase = trial.attempt(step)
    kept = conflict.rows(trial.dsn) == 2
    told = phase.error is not None and str(conflict.id) in phase.error
    where = f"id {conflict.id} twice, before the {step.role} of {step.change}"
    if told and kept:
        trial.fault("conflict", where, "refused, told by key, both rows kept; resolved by hand, run again")
        trial.conflicts.append(str(phase.error))
    elif phase.error is None and kept:
        trial.fault("conflict", where, "both rows kept")
    else:
        how = f"stopped with: {phase.error}" if phase.error else "went through"
        raise TrialFailed(f"of two rows with id {conflict.id} one is gone or none is told of: {step} {how}")
    conflict.undo(trial.dsn)
    if phase.error is None:
        trial.apply()
