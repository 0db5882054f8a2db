"""What can go wrong with breakers, beside the servers themselves. Nothing was recorded then.

HealthError       the database refused what was asked of a breaker
└── NotHeld       a release of a hold that there is not
"""

from __future__ import annotations

from comporta.errors import ComportaError


class HealthError(ComportaError):
    """What was asked of a breaker was refused: expected and found are named, nothing was recorded."""


class NotHeld(HealthError):
    """Nobody holds the breaker that was to be released."""
