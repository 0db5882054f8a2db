"""The target's primary crashes under writes; its synchronous standby takes over. All of it on copies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import psycopg
from psycopg import sql
from tenacity import RetryError, Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from comporta.drills.copies import Copy, Source, copied, either, private_folder
from comporta.drills.model import CannotDrill, Context, Drill, DrillResult, NotRecovered
from comporta.drills.writers import Writers, holds_demo, writers
from comporta.errors import ComportaError
from comporta.postgres.connection import connect, database_name, describe

_STANDBY = "comporta_standby"
_WRITES_BEFORE = 50
_WRITES_AFTER = 20
_PATIENCE_S = 60.0


def _run(context: Context) -> DrillResult:
    dsn = context.settings.require("target")
    source = Source.read(dsn)
    database = database_name(dsn)
    demo = holds_demo(dsn)
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder(source, copies=2))
        rate = context.plan.backup_rate_mb_per_s
        with _preparing():
            waiting = "" if demo else ", from its next checkpoint on"
            with context.step(f"base backup of {describe(dsn)}: it is only read{waiting}"):
                primary = stack.enter_context(copied(source, folder, "primary", rate_mb_per_s=rate, gentle=not demo))
            with context.step("the copy starts as the stand-in primary"):
                primary.cluster.start()
            with context.step("a standby of it is made, and follows synchronously"):
                upstream = replace(source, dsn=primary.dsn(database), tablespaces={})
                standby = stack.enter_context(copied(upstream, folder, _STANDBY, rate_mb_per_s=1024, follow=True))
                standby.cluster.start()
                _make_synchronous(primary)
        traffic = stack.enter_context(writers(either((primary, standby), database), demo=demo))
        with context.step(f"{traffic.description} at work"):
            _wait(lambda: traffic.answered() >= _WRITES_BEFORE, "the writers do not get answers", CannotDrill)
        crashed, down = _crash(context, primary)
        _promote(context, standby)
        with context.step("writes are acknowledged again"):
            _wait_for_more(traffic)
        with context.step("every acknowledged write is looked for"):
            written = traffic.stop()
            lost = written.lost(standby.dsn(database))
        back = min((at for at in written.answers if at >= down), default=None)
        if back is None:
            raise NotRecovered("the promoted standby acknowledged no write", remedy="See the steps for where it stood.")
        return context.recovered(
            "target",
            seconds=back - crashed,
            lost=len(lost),
            acknowledged_writes=len(written.answers),
            acknowledged_after_the_crash=sum(at >= down for at in written.answers),
            unanswered_writes=written.unanswered,
            first_lost=lost[:5],
            traffic=traffic.description,
            copied_bytes=source.bytes,
            server=describe(dsn),
        )


def _make_synchronous(primary: Copy) -> None:
    """Only when the standby confirms does a commit return from now on: nothing that was acknowledged can be lost."""
    with connect(primary.dsn("postgres"), name="comporta/drill") as conn:
        conn.execute(
            sql.SQL("alter system set synchronous_standby_names = {}").format(sql.Literal(f"FIRST 1 ({_STANDBY})"))
        )
        conn.execute("select pg_reload_conf()")

        def in_step() -> bool:
            found = conn.execute(
                "select from pg_stat_replication where application_name = %s and sync_state = 'sync'", (_STANDBY,)
            )
            return bool(found.rowcount)

        _wait(in_step, "the standby does not catch up", CannotDrill)


def _crash(context: Context, primary: Copy) -> tuple[float, float]:
    """Crash the stand-in; returns when it was told to and when it was down, in epoch seconds."""
    with context.step("CRASH of the stand-in primary (immediate stop)"):
        crashed = time.time()
        primary.cluster.stop("immediate")
        return crashed, time.time()


def _promote(context: Context, standby: Copy) -> None:
    with connect(standby.dsn("postgres"), name="comporta/drill") as conn:
        with context.step("the standby is promoted"):
            if conn.execute("select pg_promote(wait => true, wait_seconds => 60)").fetchone() != (True,):
                raise NotRecovered(
                    "the standby was not promoted within 60 s", remedy="See docs/runbooks/failover-target.md."
                )
        # A standby made from its primary's files waits for itself: without this, every write hangs after the promotion.
        with context.step("its commits wait for nobody (synchronous_standby_names)"):
            conn.execute("alter system set synchronous_standby_names = ''")
            conn.execute("select pg_reload_conf()")


def _wait_for_more(traffic: Writers) -> None:
    before = traffic.answered()
    _wait(
        lambda: traffic.answered() >= before + _WRITES_AFTER,
        f"no write is acknowledged {_PATIENCE_S:.0f} s after the promotion",
        NotRecovered,
    )


def _wait(is_so: Callable[[], bool], otherwise: str, kind: type[ComportaError]) -> None:
    """Return when ``is_so``; ``kind`` with the words ``otherwise`` when it is not within the patience."""
    try:
        Retrying(
            stop=stop_after_delay(_PATIENCE_S),
            wait=wait_fixed(0.05),
            retry=retry_if_result(lambda answer: not answer) | retry_if_exception_type(psycopg.OperationalError),
        )(is_so)
    except RetryError:
        raise kind(otherwise, remedy="Nothing but copies was touched; they are removed.") from None


@contextmanager
def _preparing() -> Iterator[None]:
    """What fails before anything was crashed says nothing about recovery."""
    try:
        yield
    except CannotDrill:
        raise
    except ComportaError as error:
        raise CannotDrill(error.message, remedy=error.remedy) from error


DRILL = Drill(
    name="target",
    component="target",
    summary="The primary crashes under writes; its synchronous standby takes over and holds every acknowledged write.",
    touches="Reads the target once through a replication connection; crashes and promotes private copies of it.",
    lost_are="acknowledged writes",
    run=_run,
)
