"""Tasks that run scripts, each of which ends in its own way; they do not wait for one another."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from comporta.orchestration.postgres_operator import PostgresOperator

# nextval() is not taken back when a statement fails: the sequence counts the tries.
FAILS_TWICE = """
do $$ begin
    if nextval('tries_of_locked') < 3 then
        raise 'could not lock busy' using errcode = 'lock_not_available';
    end if;
end $$;
"""
RESUMED = """
create table if not exists resumed (step int primary key);
insert into resumed values (1) on conflict do nothing;
select pg_terminate_backend(pg_backend_pid()) where nextval('tries_of_lost') < 2;
insert into resumed values (2);
"""
ARRAY = "do $$ begin raise notice 'seen %', '{{1,2},{3,4}}'::int[]; end $$;"


class CountingOperator(PostgresOperator):
    """Puts its own work around the scripts."""

    def run(self, context):
        """Count the tables before and after."""
        counts = [self._tables()]
        super().run(context)
        counts.append(self._tables())
        self.log.info("tables counted: %s", counts)

    def _tables(self) -> int:
        with self.session(name="counts tables") as conn:
            return conn.execute("select count(*) from pg_tables where tablename = 'counted'").fetchone()[0]


@dag(schedule=None, default_args={"retry_delay": timedelta(0)})
def scripts():
    """See the module."""
    PostgresOperator(task_id="text", sql=ARRAY)
    PostgresOperator(task_id="files", sql=["first.sql", "second.sql"])
    PostgresOperator(
        task_id="template", sql="select 1; do $$ begin raise notice 'run %', '{{ run_id }}'; end $$;", templated=True
    )
    PostgresOperator(task_id="unreadable", sql=["first.sql", "selct 1"])
    PostgresOperator(task_id="unknown_column", sql="create table half (a int);\nselect nothing_of_this_name;")
    PostgresOperator(task_id="failed_verify", sql="do $$ begin raise 'OPT3 is not in place'; end $$;")
    PostgresOperator(task_id="locked", sql=FAILS_TWICE)
    PostgresOperator(task_id="always_locked", sql="do $$ begin raise 'no' using errcode = '55P03'; end $$", retries=1)
    PostgresOperator(task_id="lost", sql=RESUMED)
    PostgresOperator(task_id="away", sql="select 1", postgres_conn_id="away", retries=1)
    CountingOperator(task_id="counting", sql="create table counted (a int);")


scripts()
