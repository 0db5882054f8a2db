"""All drills, in the order in which they are listed and run."""

from __future__ import annotations

from comporta.drills import alert_server, control, scheduler, shadow, target
from comporta.drills.model import Drill
from comporta.errors import ConfigurationError

DRILLS: tuple[Drill, ...] = (target.DRILL, shadow.DRILL, control.DRILL, scheduler.DRILL, alert_server.DRILL)
NAMES = tuple(drill.name for drill in DRILLS)


def named(name: str) -> tuple[Drill, ...]:
    """The drill of that name, or every one for ``all``; ConfigurationError names those there are."""
    found = DRILLS if name == "all" else tuple(drill for drill in DRILLS if drill.name == name)
    if not found:
        raise ConfigurationError(
            f'there is no drill "{name}"; there are: {", ".join(NAMES)}', remedy="Or `comporta drill all`."
        )
    return found
