"""The operator in a real run of a DAG: what it says, what it tries again and what not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comporta.local import environment, ports

HERE = Path(__file__).resolve().parent
DAGS = HERE / "operator_dags"
PROJECT = HERE.parents[1]
RUN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.utils.db import initdb

initdb()
found = DagBag(sys.argv[1])
assert not found.import_errors, found.import_errors
run = found.dags["scripts"].test()
print(json.dumps({"run": run.run_id, **{ti.task_id: [ti.state, ti.try_number] for ti in run.get_task_instances()}}))
"""


@dataclass(frozen=True)
class Done:
    """The run: state and number of tries of each task, and what was logged."""

    tasks: dict[str, Any]
    log: str
    dsn: str

    def log_of(self, task: str) -> str:
        """What the tries of one task logged, without where in the code."""
        tries = re.findall(rf"starting task_id={task} .*?\n(.*?)end task task_id={task} ", self.log, re.DOTALL)
        return re.sub(r" *\[airflow\S*\] .*|^\S+Z \[\w+ *\] ", "", "".join(tries), flags=re.MULTILINE)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return conn.execute(query.encode()).fetchall()


@pytest.fixture(scope="module")
def done(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    home = tmp_path_factory.mktemp("project")
    (home / "first.sql").write_text("create table first (a int);\ndo $$ begin raise notice 'half of it'; end $$;\n")
    (home / "second.sql").write_text("-- a comment\ninsert into first\nvalues (1);\n")
    cluster = servers.control.cluster
    cluster.ensure_database("operator")
    try:
        with psycopg.connect(cluster.dsn("operator"), autocommit=True) as conn:
            conn.execute("create sequence tries_of_locked; create sequence tries_of_lost")
        tasks, log = _run(home, environment.uri("postgres", cluster, "operator"))
        yield Done(tasks, log, cluster.dsn("operator"))
    finally:
        with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
            conn.execute("drop database operator with (force)")


def _run(home: Path, target: str) -> tuple[dict[str, Any], str]:
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_TARGET": target,
        "AIRFLOW_CONN_AWAY": f"postgres://nobody:secret@127.0.0.1:{ports.first_free(56_900)}/nothing",
        "COMPORTA_HOME": str(home),
        "PYTHONPATH": str(PROJECT / "plugins"),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(DAGS)], env=settings, cwd=home, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return json.loads(done.stdout[done.stdout.rindex('{"run"') :].splitlines()[0]), done.stdout


def test_the_log_opens_with_the_scripts_and_the_database_that_they_are_about_to_change(done: Done) -> None:
    said = done.log_of("files")
    opening = said[said.index("About to run") : said.index("  1 of 2")]
    assert re.fullmatch(
        r"About to run on database operator of postgres@127\.0\.0\.1:\d+/operator"
        r" \(PostgreSQL \d+\.\d+, system identifier \d+, backend \d+\):\n"
        r"  \S+/first\.sql: 2 statement\(s\), sha256 [0-9a-f]{12}\n"
        r"  \S+/second\.sql: 1 statement\(s\), sha256 [0-9a-f]{12}\n",
        opening,
    )


def test_the_log_tells_each_statement_and_what_the_server_says_meanwhile(done: Done) -> None:
    told = [line for line in done.log_of("files").splitlines() if line.startswith("  ")]
    assert told[2:] == [
        "  1 of 2, line 1: create table first (a int)",
        "  2 of 2, line 2: do $$ begin raise notice 'half of it'; end $$",
        "    half of it",
        "  1 of 1, line 2: insert into first",
    ]


def test_the_scripts_of_a_task_run_in_their_order(done: Done) -> None:
    assert done.tasks["files"] == ["success", 1]
    assert done.rows("select * from first") == [(1,)]


def test_braces_in_sql_are_no_template(done: Done) -> None:
    assert done.tasks["text"] == ["success", 1]
    assert "seen {{1,2},{3,4}}" in done.log_of("text")


def test_a_template_is_filled_in_where_it_was_asked_for(done: Done) -> None:
    assert done.tasks["template"] == ["success", 1]
    assert f"    run {done.tasks['run']}" in done.log


def test_no_script_runs_when_one_of_them_cannot_be_read(done: Done) -> None:
    """Were it otherwise, the task that makes the same table would have failed."""
    assert done.tasks["unreadable"] == ["failed", 1]
    assert 'unreadable.sql:1:1: syntax error at or near "selct"' in done.log


@pytest.mark.parametrize("task", ["unknown_column", "failed_verify"])
def test_what_a_person_must_put_right_is_not_tried_again(done: Done, task: str) -> None:
    assert done.tasks[task] == ["failed", 1]


def test_what_ran_before_the_failure_stays(done: Done) -> None:
    assert done.rows("select count(*) from half") == [(0,)]


def test_a_lock_that_was_not_had_is_asked_for_again(done: Done) -> None:
    assert done.tasks["locked"] == ["success", 3]
    assert done.log_of("locked").count("55P03: could not lock busy") == 6  # in words, as Airflow's, and as the reason


def test_a_lost_connection_is_made_again_and_the_script_goes_on(done: Done) -> None:
    assert done.tasks["lost"] == ["success", 2]
    assert done.rows("select step from resumed order by step") == [(1,), (2,)]


@pytest.mark.parametrize("task", ["always_locked", "away"])
def test_what_does_not_pass_fails_when_its_tries_are_used_up(done: Done, task: str) -> None:
    assert done.tasks[task] == ["failed", 2]


def test_a_password_is_never_logged(done: Done) -> None:
    assert "cannot connect to nobody@127.0.0.1" in done.log
    assert "secret@" not in done.log


def test_an_operator_of_ones_own_works_around_the_scripts(done: Done) -> None:
    assert done.tasks["counting"] == ["success", 1]
    assert "tables counted: [0, 1]" in done.log
