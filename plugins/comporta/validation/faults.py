"""Trouble made on a shadow server through SQL alone, as a superuser: a killed backend, a crash, a full disk.

What is real. ``terminate`` is what an administrator or a lost network does to a session. ``crash_server`` kills a
backend with SIGKILL, as the kernel does when memory runs out: the postmaster ends every session at once, throws shared
memory away and recovers from the WAL; open transactions are gone, acknowledged writes must be there.

What is imitation. The machine stays up, and with it the kernel's cache: whether files were synced, and pages torn by a
power cut, are not tried (so ``fsync`` may be off here). ``disk_quota`` limits the size of each file that one backend
writes (RLIMIT_FSIZE), not the room on the disk:

- Extending a table, an index, a TOAST table or a temporary file beyond the quota fails with "File too large" and, for
  relations, the hint "Check free disk space.". The SQLSTATE is XX000; a disk that is full gives 53100.
- The statement fails and the session lives. WAL segments fit the quota, so nothing panics.
- Files below the quota still grow, and many small ones may grow side by side; on a full disk nothing would.
- A backend that must itself write out a page that exists already beyond the quota ("could not write block"; VACUUM of
  a table that is not in memory) fails as well; a full disk would take it.
- Only this one backend is limited. Checkpointer, background writer and autovacuum are not, nor are parallel workers,
  which the postmaster forks: the session sets ``max_parallel_workers_per_gather`` and
  ``max_parallel_maintenance_workers`` to 0 where that matters.
- What the backend says to a server log that is a file larger than the quota is lost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from comporta.errors import ComportaError, UnreachableServer
from comporta.postgres.connection import Connection, connect, describe

OnProgress = Callable[[str], None]

_NAME = "comporta/faults"
_UNACKNOWLEDGED = ("off", "false", "no", "0")


class FaultNotPossible(ComportaError):
    """This server does not let the fault be made: a right, a program or a setting is missing; nothing was harmed."""


class BackendGone(FaultNotPossible):
    """The backend that was to be hit has ended already."""


class NotRecovered(ComportaError):
    """The crashed server did not answer again in time, or did not crash; it is a shadow, and may need a hand."""


@dataclass(frozen=True)
class Recovery:
    """Epoch seconds: every session was alive before ``crashed_at``, and statements are answered from ``back_at`` on."""

    crashed_at: float
    back_at: float

    @property
    def seconds(self) -> float:
        """How long the server was away."""
        return self.back_at - self.crashed_at


def terminate(conn: Connection, pid: int, *, wait_s: float = 10) -> bool:
    """End a backend and see it gone; True when it was alive. FaultNotPossible when it may not be, or does not, end."""
    if not _is_alive(conn, pid):
        return False
    try:
        ended = conn.execute("select pg_terminate_backend(%s, %s)", (pid, int(wait_s * 1000))).fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise FaultNotPossible(
            f"backend {pid} may not be ended: {error.diag.message_primary}", remedy="Sign in as a superuser."
        ) from error
    if ended == (True,):
        return True
    if _is_alive(conn, pid):
        raise FaultNotPossible(f"backend {pid} did not end within {wait_s:g} s", remedy="See the server's log.")
    return False


def crash_server(
    dsn: str, *, victim_pid: int | None = None, wait_s: float = 300, on_progress: OnProgress = lambda _: None
) -> Recovery:
    """Kill a backend with SIGKILL, so that the whole server of ``dsn`` crashes, and wait until it has recovered.

    The caller answers for ``dsn`` being a shadow. The victim is ``victim_pid``, or a session of our own. Afterwards
    pg_cron's launcher is away: jobs copied from production do not run (``@reboot`` ones start with the launcher and may).
    Raises FaultNotPossible before anything is harmed, NotRecovered when the server stays away.
    """
    with connect(dsn, name=_NAME) as conn, connect(dsn, name=_NAME) as ours:
        _require_crash_conditions(conn)
        victim = _require_backend(conn, ours.info.backend_pid if victim_pid is None else victim_pid)
        had_launcher = bool(_cron_backends(conn))
        on_progress(f"kill backend {victim}: the server crashes")
        crashed_at = time.time()
        _kill(conn, victim)
        _await_our_own_end(conn)
    on_progress("wait for recovery")
    with _await_recovery(dsn, wait_s) as conn:
        back_at = time.time()
        # A launcher that was ended stays forgotten through a crash; one that was at work is started again.
        _retire_cron(conn, look_for_s=30 if had_launcher else 2)
    recovery = Recovery(crashed_at, back_at)
    on_progress(f"back after {recovery.seconds:.1f} s")
    return recovery


def smallest_quota(conn: Connection) -> int:
    """Bytes of the smallest quota that is safe: a WAL segment, since a WAL write that fails takes the server down."""
    row = conn.execute("select pg_size_bytes(current_setting('wal_segment_size'))").fetchone()
    assert row is not None
    return int(row[0])


def set_quota(conn: Connection, pid: int, quota_bytes: int) -> None:
    """Let no file that backend ``pid`` writes grow beyond ``quota_bytes``; FaultNotPossible where that cannot be done."""
    smallest = smallest_quota(conn)
    if quota_bytes < smallest:
        raise FaultNotPossible(
            f"a quota of {quota_bytes:,} bytes is smaller than a WAL segment of {smallest:,}: the server would go down",
            remedy="Ask for more, or make the shadow with a smaller segment (initdb --wal-segsize=1).",
        )
    _require_superuser(conn)
    _require_backend(conn, pid)
    _prlimit(conn, pid, str(quota_bytes))


def lift_quota(conn: Connection, pid: int) -> bool:
    """Give backend ``pid`` the limit that ``conn``'s own has, which is the server's; False when it has ended."""
    if not _is_alive(conn, pid):
        return False
    try:
        _prlimit(conn, pid, _own_limit(conn))
    except BackendGone:
        return False
    return True


@contextmanager
def disk_quota(admin_dsn: str, pid: int, quota_bytes: int) -> Iterator[None]:
    """Limit the files of backend ``pid`` within the block, and lift the limit afterwards if the backend still lives."""
    with connect(admin_dsn, name=_NAME) as conn:
        set_quota(conn, pid, quota_bytes)
    try:
        yield
    finally:
        with connect(admin_dsn, name=_NAME) as conn:
            lift_quota(conn, pid)


def _is_alive(conn: Connection, pid: int) -> bool:
    return bool(conn.execute("select from pg_stat_activity where pid = %s", (pid,)).rowcount)


def _require_backend(conn: Connection, pid: int) -> int:
    """Only a client's session is ever hit: any other number could by now be a stranger's process."""
    query = "select from pg_stat_activity where pid = %s and backend_type = 'client backend'"
    if not conn.execute(query, (pid,)).rowcount:
        raise BackendGone(f"backend {pid} is no session of this server (any more)", remedy="Nothing was done to it.")
    return pid


def _require_superuser(conn: Connection) -> None:
    """Others are not shown whose a session is, and may run no programs on the server."""
    if conn.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() != (True,):
        raise FaultNotPossible("this fault takes a superuser", remedy="Sign in to the shadow as a superuser.")


def _require_crash_conditions(conn: Connection) -> None:
    _require_superuser(conn)
    row = conn.execute(
        "select current_setting('restart_after_crash') = 'on', current_setting('synchronous_commit') = 'off'"
    ).fetchone()
    assert row is not None
    restarts, is_off_here = row
    if not restarts:
        raise FaultNotPossible(
            "the server would stay down: restart_after_crash is off",
            remedy="Set restart_after_crash = on on the shadow.",
        )
    if is_off_here or _is_off_elsewhere(conn):
        raise FaultNotPossible(
            "synchronous_commit is off: the server may lose an acknowledged write in a crash, whatever a script does",
            remedy="Set synchronous_commit = on on the shadow, for its databases and roles as well.",
        )


def _is_off_elsewhere(conn: Connection) -> bool:
    """Our own session may have the setting on while those of the application get another value."""
    given = conn.execute(
        "select setting from pg_file_settings where name = 'synchronous_commit' and applied"
        " union all select split_part(s, '=', 2) from pg_db_role_setting, unnest(setconfig) s"
        " where setdatabase in (0, (select oid from pg_database where datname = current_database()))"
        " and split_part(s, '=', 1) = 'synchronous_commit'"
    )
    return any(value.lower() in _UNACKNOWLEDGED for (value,) in given)


def _kill(conn: Connection, pid: int) -> None:
    try:
        _hit(conn, pid, f"kill -9 {pid}")
    except FaultNotPossible:
        raise
    except psycopg.OperationalError:
        return  # we were ended with the others before the answer came


def _await_our_own_end(conn: Connection) -> None:
    """Once the postmaster has ended us it lets nobody in until it has recovered; before that, "it answers" says nothing."""
    try:
        conn.execute("select pg_sleep(30)")
    except psycopg.OperationalError:
        return
    raise NotRecovered("a backend was killed and the server did not crash within 30 s", remedy="See the server's log.")


def _await_recovery(dsn: str, wait_s: float) -> Connection:
    def answer() -> Connection | None:
        conn = connect(dsn, name=_NAME)
        try:
            if conn.execute("select not pg_is_in_recovery()").fetchone() == (True,):
                return conn
        except psycopg.OperationalError:
            pass
        conn.close()
        return None

    conn: Connection | None = Retrying(
        stop=stop_after_delay(wait_s),
        wait=wait_fixed(0.1),
        retry=retry_if_exception_type(UnreachableServer) | retry_if_result(lambda found: found is None),
        retry_error_callback=lambda _: None,
    )(answer)
    if conn is None:
        raise NotRecovered(f"{describe(dsn)} does not answer {wait_s:g} s after its crash", remedy="See its log.")
    return conn


def _cron_backends(conn: Connection) -> list[int]:
    return [pid for (pid,) in conn.execute("select pid from pg_stat_activity where backend_type ~ '^pg_cron'")]


def _retire_cron(conn: Connection, *, look_for_s: float) -> None:
    """End pg_cron's launcher, and what it began; ended by hand it leaves with status 0, and the server forgets it."""
    if conn.execute("select current_setting('shared_preload_libraries') ~ 'pg_cron'").fetchone() != (True,):
        return
    found: list[int] = Retrying(
        stop=stop_after_delay(look_for_s),
        wait=wait_fixed(0.1),
        retry=retry_if_result(lambda pids: not pids),
        retry_error_callback=lambda _: [],
    )(_cron_backends, conn)
    for pid in found:
        terminate(conn, pid)


def _prlimit(conn: Connection, pid: int, soft: str) -> None:
    # The colon leaves the hard limit alone: only root could raise that again.
    _hit(conn, pid, f"prlimit --pid {pid} --fsize={soft}:")


def _own_limit(conn: Connection) -> str:
    """The soft limit on file size that the server gives to its sessions, in bytes or ``unlimited``."""
    row = conn.execute("select pg_read_file('/proc/self/limits')").fetchone()
    found = re.search(r"^Max file size\s+(\S+)", str(row), re.MULTILINE)
    return found[1] if found else "unlimited"


def _hit(conn: Connection, pid: int, command: str) -> None:
    """Run ``command`` against a backend; BackendGone when it failed because that had just ended."""
    try:
        _run_on_server(conn, command)
    except FaultNotPossible:
        _require_backend(conn, pid)
        raise


def _run_on_server(conn: Connection, command: str) -> None:
    """Run one of this module's own commands, made of constants and integers, in the server's shell."""
    try:
        # No row: a command that has ended before it was fed would be reported as a broken pipe.
        conn.execute(sql.SQL("copy (select where false) to program {}").format(sql.Literal(command)))
    except (psycopg.errors.ExternalRoutineException, psycopg.errors.InsufficientPrivilege) as error:
        detail = f" ({error.diag.message_detail})" if error.diag.message_detail else ""
        raise FaultNotPossible(
            f"the server could not run `{command}`: {error.diag.message_primary}{detail}",
            remedy="The shadow needs Linux with util-linux (prlimit), and a superuser.",
        ) from error
