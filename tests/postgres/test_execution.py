"""Scripts run statement by statement and fail in words; connections know which server they reached and keep secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from comporta.errors import ConfigurationError, StatementFailed, UnreachableServer, UnsafeTarget
from comporta.local import ports
from comporta.postgres.connection import (
    Connection,
    ServerIdentity,
    connect,
    database_name,
    describe,
    identify,
    refuse_same_server,
    with_database,
)
from comporta.postgres.execution import ScriptProgress, run_script
from comporta.postgres.script import Script

SECRET = "s3cret p'w\\d"


@pytest.fixture
def conn(control: str) -> Iterator[Connection]:
    with connect(control, name="comporta/test") as opened:
        yield opened


def script(text: str) -> Script:
    return Script.parse(text.encode(), Path("sql/apply/trial.sql"))


def failure(conn: Connection, text: str) -> str:
    with pytest.raises(StatementFailed) as caught:
        run_script(conn, script(text))
    return str(caught.value)


def rows(conn: Connection, query: str) -> list[tuple[object, ...]]:
    return conn.execute(query).fetchall()


def test_a_failure_names_file_line_statement_and_what_remains(conn: Connection) -> None:
    text = "-- são\ncreate table kept (a int);\n\n/* now */ insert into kept\nvalues (1), ('x');\nselect 1;\nselect 2;"
    message = failure(conn, text)
    assert message.startswith("sql/apply/trial.sql:4: statement 2 of 4 failed (insert into kept)")
    assert "22P02: invalid input syntax for type integer" in message
    assert "2 statement(s) after it did not run; what ran before it stays" in message
    assert rows(conn, "select * from kept") == []


def test_detail_and_hint_of_the_server_are_passed_on(conn: Connection) -> None:
    message = failure(conn, "do $$ begin raise 'no' using detail = 'the detail', hint = 'the hint'; end $$;")
    assert "P0001: no\n  the detail\n  the hint" in message


def test_a_script_that_is_corrected_continues_where_it_failed(conn: Connection) -> None:
    text = "create table if not exists kept (a int);\ninsert into {} values (1);"
    failure(conn, text.format("absent"))
    run_script(conn, script(text.format("kept")))
    assert rows(conn, "select * from kept") == [(1,)]


def test_each_statement_commits_by_itself(conn: Connection) -> None:
    """A procedure that commits, CONCURRENTLY and a DO block that commits all run."""
    run_script(
        conn,
        script(
            "create table kept (a int);\n"
            "create index concurrently kept_a on kept (a);\n"
            "do $$ begin insert into kept values (1); commit; insert into kept values (2); rollback; end $$;\n"
            "vacuum kept;"
        ),
    )
    assert rows(conn, "select * from kept") == [(1,)]


def test_a_failure_inside_a_transaction_takes_it_back_and_leaves_the_connection_usable(conn: Connection) -> None:
    message = failure(conn, "create table kept (a int);\nbegin;\ninsert into kept values (1);\nselect 1/0;\ncommit;")
    assert "trial.sql:4: statement 4 of 5" in message
    assert rows(conn, "select * from kept") == []


def test_a_connection_lost_on_the_way_names_the_statement(conn: Connection) -> None:
    message = failure(conn, "select 1;\nselect pg_terminate_backend(pg_backend_pid());\nselect 2;")
    assert "trial.sql:2: statement 2 of 3 failed" in message
    assert "1 statement(s) after it did not run" in message


def test_progress_tells_each_statement_and_the_notices_of_the_server(conn: Connection) -> None:
    seen: list[ScriptProgress] = []
    run_script(conn, script("select 1;\ndo $$ begin raise notice 'half of it'; end $$;"), seen.append)
    assert [(each.statement.number, each.notice) for each in seen] == [(1, None), (2, None), (2, "half of it")]
    conn.execute("do $$ begin raise notice 'of somebody else'; end $$")
    assert len(seen) == 3


def test_a_session_says_who_it_is_and_keeps_its_time_outs(control: str) -> None:
    with connect(control, name="comporta/test", lock_timeout_ms=1500, statement_timeout_ms=2500) as conn:
        names = ("application_name", "lock_timeout", "statement_timeout")
        assert [conn.execute("select current_setting(%s)", (name,)).fetchone() for name in names] == [
            ("comporta/test",), ("1500ms",), ("2500ms",),
        ]  # fmt: skip
        assert conn.autocommit


def test_options_of_the_connection_string_are_kept(control: str) -> None:
    with connect(make_conninfo(control, options="-c work_mem=5MB"), name="comporta/test") as conn:
        assert rows(conn, "show work_mem") == [("5MB",)]


def refused(dsn: str) -> str:
    """The error with everything that a log would print of it: its causes too."""
    with pytest.raises(UnreachableServer) as caught:
        connect(dsn, name="comporta/test")
    assert caught.value.__suppress_context__
    return str(caught.value)


def test_a_wrong_password_is_told_without_the_password(control: str) -> None:
    message = refused(make_conninfo(control, password=SECRET))
    assert "cannot connect to postgres@127.0.0.1:" in message
    assert "password authentication failed" in message
    assert SECRET not in message
    assert str(conninfo_to_dict(control)["password"]) not in message


def test_a_port_where_nobody_listens_is_told_with_host_and_port(control: str) -> None:
    port = ports.first_free(56_990)
    message = refused(make_conninfo(control, port=port, password=SECRET))
    assert f"@127.0.0.1:{port}/" in message
    assert "refused" in message
    assert SECRET not in message


def test_a_database_that_is_not_there_is_named(control: str) -> None:
    assert 'database "absent" does not exist' in refused(with_database(control, "absent"))


@pytest.mark.parametrize(
    "dsn", ["host=127.0.0.1 password=hunter2 rest hunter2", "postgresql://me:hunter2@[::1/gis", "hunter2"],
    ids=["key-without-value", "url", "word"],
)  # fmt: skip
@pytest.mark.parametrize("use", [lambda dsn: connect(dsn, name="comporta/test"), describe, lambda dsn: with_database(dsn, "x")],
                         ids=["connect", "describe", "with_database"])  # fmt: skip
def test_a_connection_string_that_cannot_be_read_is_refused_without_quoting_it(
    dsn: str, use: Callable[[str], object]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        use(dsn)
    assert caught.value.__suppress_context__
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("host=db port=6000 dbname=gis user=me password=hunter2", "me@db:6000/gis"),
        ("postgresql://me:hunter2@db/gis", "me@db:5432/gis"),
        ("user=me", "me@local socket:5432/me"),
    ],
    ids=["keywords", "url", "defaults"],
)
def test_a_server_is_described_by_user_host_port_and_database(dsn: str, expected: str) -> None:
    assert describe(dsn) == expected


def test_without_a_database_libpq_takes_the_name_of_the_user() -> None:
    assert database_name("user=me") == "me"
    assert database_name(with_database("user=me password='a b'", "gis")) == "gis"


def identity(dsn: str) -> ServerIdentity:
    with connect(dsn, name="comporta/test") as conn:
        return identify(conn)


def test_a_server_knows_who_it_is(servers: Any) -> None:
    found = identity(servers.target.dsn)
    assert found.database == "gis"
    assert found.port == servers.target.cluster.port
    assert found.version_num >= 150_000
    assert not found.is_standby


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({}, id="itself"),
        pytest.param({"dbname": "postgres"}, id="another-database"),
        pytest.param({"host": "localhost"}, id="another-host-name"),
        pytest.param({"host": "127.0.0.1", "options": "-c search_path=other"}, id="other-options"),
    ],
)
def test_a_server_under_another_name_is_the_same_server(servers: Any, parameters: dict[str, str]) -> None:
    target = servers.target.dsn
    with pytest.raises(UnsafeTarget, match="the shadow is the target's own server") as caught:
        refuse_same_server(identity(target), identity(make_conninfo(target, **parameters)))
    assert "COMPORTA_SHADOW_DSN" in str(caught.value)


def test_two_servers_are_told_apart_although_database_and_user_are_the_same(servers: Any) -> None:
    target, shadow = identity(servers.target.dsn), identity(servers.shadow.dsn)
    assert target.database == shadow.database
    refuse_same_server(target, shadow)
