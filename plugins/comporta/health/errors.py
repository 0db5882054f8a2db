"""What can go wrong with breakers, beside the servers themselves. Nothing was recorded then.

HealthError             the database refused what was asked of a breaker
├── UnknownBreaker      the release watches no signal of that name
└── NotHeld             a release of a hold that there is not
"""

from __future__ import annotations

from collections.abc import Collection

from comporta.errors import ComportaError


class HealthError(ComportaError):
    """What was asked of a breaker was refused: expected and found are named, nothing was recorded."""


class UnknownBreaker(HealthError):
    """The release has no signal, and so no breaker, of that name."""

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(f'no breaker "{name}"', remedy=f"There are: {', '.join(known)}.")


class NotHeld(HealthError):
    """Nobody holds the breaker that was to be released."""
