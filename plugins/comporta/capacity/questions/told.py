"""What one question has told: its answers, its lines for plots, and the days that other questions compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from comporta.capacity.model import Answer, Series
from comporta.capacity.models import Draws


@dataclass
class Told:
    """Filled by a question. ``days`` and ``now`` are by state: the day on which the objective is passed, and how it stands now."""

    answers: list[Answer] = field(default_factory=list)
    series: dict[str, list[Series]] = field(default_factory=dict)
    days: dict[str, Draws] = field(default_factory=dict)
    now: dict[str, Draws] = field(default_factory=dict)

    def draw(self, plot: str, *lines: Series) -> None:
        """Add lines to a plot."""
        self.series.setdefault(plot, []).extend(lines)

    @classmethod
    def all(cls, parts: Iterable[Told]) -> Self:
        """Answers and lines of several questions, in their order."""
        whole = cls()
        for part in parts:
            whole.answers += part.answers
            for plot, lines in part.series.items():
                whole.draw(plot, *lines)
        return whole
