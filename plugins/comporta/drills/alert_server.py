"""The alert server is killed; the supervisor brings it back. Not part of this version: the drill waits for it."""

from __future__ import annotations

import httpx

from comporta.drills.model import Context, Drill, DrillResult
from comporta.drills.supervised import find, kill_and_wait
from comporta.local.layout import Layout
from comporta.local.ports import LOOPBACK

NAME = "alert-server"
HEALTH = f"http://{LOOPBACK}:8765/health"
_PATIENCE_S = 60.0


def _run(context: Context) -> DrillResult:
    layout = Layout(context.settings.home)
    process = find(
        layout, NAME,
        how_found=f"This version has no alert server. The drill finds it by that name among the processes of "
        f"`make status`, and asks {HEALTH}.",
    )  # fmt: skip
    death = kill_and_wait(context, layout, NAME, process, lambda _: _answers(), patience_s=_PATIENCE_S)
    return context.recovered(NAME, seconds=death.seconds, lost=0, health=HEALTH)


def _answers() -> bool:
    try:
        return httpx.get(HEALTH, timeout=2.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


DRILL = Drill(
    name=NAME,
    component="alert server",
    summary="The alert server is killed; the supervisor brings it back and it answers.",
    touches="Kills the alert server of the local system of `make run`; its clients connect again.",
    lost_are="alerts",
    run=_run,
    shipped=False,
)
