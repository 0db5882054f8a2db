"""What a rollout refuses, and how it stops."""

from __future__ import annotations

from collections.abc import Sequence

from comporta.errors import ComportaError


class RolloutRefused(ComportaError):
    """The target must not be touched now: each reason names what differs. No statement ran."""

    def __init__(self, what: str, reasons: Sequence[str], *, remedy: str = "") -> None:
        super().__init__(f"{what} is refused: " + "\n  ".join(["", *reasons]).rstrip(), remedy=remedy)
        self.reasons = tuple(reasons)


class TargetBusy(ComportaError):
    """Somebody else is changing the target: who and since when is named. Nothing was changed here; try again."""

    transient = True


class VerifyFailed(ComportaError):
    """A change is applied and does not verify: it has to be rolled back."""


class WatchFailed(ComportaError):
    """The target was not well, or nobody can say how it was, while a change was watched: it has to be rolled back."""


class BreakerOpened(ComportaError):
    """A breaker opened while a script ran; its statement was cancelled, and what ran before it stays."""
