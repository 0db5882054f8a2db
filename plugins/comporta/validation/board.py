"""The board on a terminal: changes by scenarios, and the orders beneath."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from comporta.validation.model import Proof, Verdict

_MARKS = {
    Verdict.HOLDS: "[green]✔ holds[/]",
    Verdict.FAILS: "[bold red]✘ fails[/]",
    Verdict.NO_DATA: "[yellow]? no data[/]",
}


def board(proofs: Sequence[Proof]) -> Table:
    """One row a subject, one column a scenario, with verdict and seconds; what was not proved is an empty cell."""
    scenarios = list(dict.fromkeys(proof.scenario for proof in proofs))
    table = Table("", *scenarios, title="rollback proofs", title_justify="left")
    cells = {(proof.subject, proof.scenario): f"{_MARKS[proof.verdict]} {proof.seconds:.1f} s" for proof in proofs}
    for subject in dict.fromkeys(proof.subject for proof in proofs):
        table.add_row(subject, *(cells.get((subject, scenario), "") for scenario in scenarios))
    return table
