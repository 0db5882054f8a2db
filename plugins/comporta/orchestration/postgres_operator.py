"""Runs SQL scripts on a PostgreSQL server as psql would, with time-outs, progress in the log, and an end when it is killed.

The name is that of the operator which left Airflow's Postgres provider in its version 6; how this one differs is told in
docs/postgres-operator.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import BaseHook, RetryPolicy
from airflow.sdk.exceptions import AirflowFailException

from comporta.orchestration.retrying import RetryTransient
from comporta.settings import project_root

if TYPE_CHECKING:
    from comporta.postgres.connection import Connection
    from comporta.postgres.execution import ScriptProgress, TimeOuts
    from comporta.postgres.script import Script
    from comporta.postgres.stopping import StopSwitch

# What the base class takes for queries that give results; a script gives none, and is split by PostgreSQL's own grammar.
_FOR_QUERIES = frozenset(
    {
        "autocommit", "handler", "hook_params", "output_processor", "parameters", "requires_result_fetch", "return_last",
        "retry_on_failure", "show_return_value_in_logs", "split_statements",
    }
)  # fmt: skip


class PostgresOperator(SQLExecuteQueryOperator):
    """Runs scripts statement by statement, each committing by itself; run again, scripts that can be resumed continue.

    ``sql`` is one or several of: a path that ends in .sql, relative to the project's folder, or SQL text. Nothing of it is a
    template unless ``templated``: ``{{`` is an array in SQL. The time-outs are those of ``TimeOuts``; 0 is for ever.
    What may pass, a lost connection or a lock that was not had, is tried ``retries`` times again; what a person must put right
    fails at once. When the task is marked, cleared or killed, the statement that runs is cancelled on the server.

    A subclass that does more than run scripts overrides ``run``; whatever it opens with ``session`` ends when it is killed.
    """

    template_fields: Sequence[str] = ("conn_id", "database")
    template_ext: Sequence[str] = ()
    template_fields_renderers: ClassVar[dict[str, str]] = {}
    ui_color = "#b8d8d0"

    def __init__(
        self,
        *,
        sql: str | Path | Sequence[str | Path],
        postgres_conn_id: str = "target",
        database: str | None = None,
        lock_timeout_ms: int = 2_000,
        statement_timeout_ms: int = 0,
        index_timeout_s: int = 3_600,
        templated: bool = False,
        retries: int = 5,
        retry_delay: timedelta = timedelta(seconds=2),
        max_retry_delay: timedelta = timedelta(seconds=60),
        retry_exponential_backoff: float = 2.0,
        retry_policy: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> None:
        if foreign := sorted(_FOR_QUERIES & kwargs.keys()):
            raise TypeError(
                f"PostgresOperator runs scripts, which have no {', '.join(foreign)}: "
                "SQLExecuteQueryOperator is the one for a query with parameters or results"
            )
        super().__init__(
            sql=[str(each) for each in ([sql] if isinstance(sql, str | Path) else sql)],
            conn_id=postgres_conn_id,
            database=database,
            retries=retries,
            retry_delay=retry_delay,
            max_retry_delay=max_retry_delay,
            retry_exponential_backoff=retry_exponential_backoff,  # when the process dies, and no policy is asked
            retry_policy=retry_policy or RetryTransient(),
            **kwargs,
        )
        self.lock_timeout_ms = lock_timeout_ms
        self.statement_timeout_ms = statement_timeout_ms
        self.index_timeout_s = index_timeout_s
        self.templated = templated

    def execute(self, context: Any) -> Any:
        """Do what ``run`` does; an error that would come again is Airflow's that is not retried."""
        from comporta.postgres.execution import may_pass

        try:
            return self.run(context)
        except Exception as error:
            passes = may_pass(error)
            if passes is not None:
                self.log.error("%s", error)  # in words; Airflow logs the traceback
            if passes is False:
                raise AirflowFailException(str(error)) from error
            raise

    def run(self, context: Any) -> Any:
        """Run the scripts in their order. All of them are read before the first statement of the first one runs."""
        scripts = [self._script(given, context) for given in self.sql]
        with self.session() as conn:
            self._announce(conn, scripts)
            for script in scripts:
                self.run_script(conn, script)

    def on_kill(self) -> None:
        """Airflow calls this in a signal handler when the task is marked, cleared or shut down."""
        self.cancel()

    def cancel(self) -> None:
        """End what runs on the server. It returns at once and is safe in a signal handler."""
        self.stop.stop()

    @cached_property
    def stop(self) -> StopSwitch:
        """Ends what runs; for a subclass that opens connections of its own: ``with self.stop.watch(conn)``."""
        from comporta.postgres.stopping import StopSwitch

        return StopSwitch()

    @property
    def timeouts(self) -> TimeOuts:
        """What every statement runs under."""
        from comporta.postgres.execution import TimeOuts

        return TimeOuts(self.lock_timeout_ms, self.statement_timeout_ms, self.index_timeout_s)

    def dsn(self) -> str:
        """The server, as libpq names it. It holds a password."""
        from comporta.orchestration.connections import conninfo
        from comporta.postgres.connection import with_database

        found = conninfo(BaseHook.get_connection(str(self.conn_id)))
        return with_database(found, self.database) if self.database else found

    @contextmanager
    def session(self, *, name: str | None = None) -> Iterator[Connection]:
        """A connection in autocommit under ``name``, the task's by default, whose statements end when the task is killed.

        The block then ends with Stopped.
        """
        from comporta.postgres.connection import connect

        with connect(self.dsn(), name=name or f"comporta/{self.task_id}"[:63]) as conn, self.stop.watch(conn):
            yield conn

    def run_script(self, conn: Connection, script: Script) -> None:
        """Run one script under the time-outs, its statements and the server's notices in the log."""
        from comporta.postgres.execution import run_script

        run_script(conn, script, self.on_progress, timeouts=self.timeouts)
        self.log.info("%s: its %d statement(s) have run", script.path, len(script.statements))

    def on_progress(self, progress: ScriptProgress) -> None:
        """Tell what the server says, or which statement is about to run; Stopped instead when the task was killed."""
        if progress.notice is not None:
            self.log.info("    %s", progress.notice)
            return
        self.stop.check()
        statement, total = progress.statement, len(progress.script.statements)
        self.log.info("  %d of %d, line %d: %s", statement.number, total, statement.line, statement.headline)

    def _announce(self, conn: Connection, scripts: Sequence[Script]) -> None:
        from comporta.postgres.connection import describe, identify

        server = identify(conn)
        self.log.info(
            "About to run on database %s of %s (PostgreSQL %d.%d, system identifier %d, backend %d):\n%s",
            server.database, describe(conn.info.dsn), server.version_num // 10_000, server.version_num % 10_000,
            server.system_identifier, conn.info.backend_pid,
            "\n".join(f"  {script.path}: {len(script.statements)} statement(s), sha256 {script.sha256[:12]}" for script in scripts),
        )  # fmt: skip

    def _script(self, given: str, context: Any) -> Script:
        from comporta.postgres.script import Script, read_content

        is_file = given.endswith(".sql") and "\n" not in given
        path = project_root() / given if is_file else Path(f"{self.task_id}.sql")
        content = read_content(path) if is_file else given.encode()
        if self.templated:
            content = self.render_template(content.decode(), context).encode()
        return Script.parse(content, path)
