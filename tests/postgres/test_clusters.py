"""A private cluster can be made, broken, found again and removed, and never disturbs what is not its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from comporta.local.account import Account
from comporta.local.cluster import UNSAFE_SETTINGS, Cluster
from comporta.local.layout import server_root

PORT = 55_780


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that the servers' account can enter, emptied afterwards."""
    place = server_root(Path("/tmp") / f"comporta-{tmp_path.parent.name}-{tmp_path.name}", Account.current())  # noqa: S108
    yield place
    Cluster("one", place / "one", PORT, UNSAFE_SETTINGS).remove()
    place.rmdir()


@pytest.fixture
def cluster(folder: Path) -> Cluster:
    one = Cluster("one", folder / "one", PORT, UNSAFE_SETTINGS)
    one.create()
    one.start()
    return one


def ask(dsn: str, query: Any) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        return None if row is None else row[0]


def test_making_and_starting_twice_changes_nothing(cluster: Cluster) -> None:
    """A second create and start keep the running server and its password."""
    pid, password = cluster.pid, cluster.password
    again = Cluster("one", cluster.directory, PORT)
    assert again.create() is False
    again.start()
    assert (again.pid, again.password, again.port) == (pid, password, cluster.port)


def test_a_server_listens_on_loopback_only_and_asks_for_a_password(cluster: Cluster) -> None:
    """Signing in without the password is refused, and no other address is listened on."""
    assert ask(cluster.dsn(), "show listen_addresses") == "127.0.0.1"
    assert ask(cluster.dsn(), "show unix_socket_directories") == ""
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"host=127.0.0.1 port={cluster.port} user=postgres dbname=postgres passfile=/dev/null")
    assert (cluster.directory / "password").stat().st_mode & 0o077 == 0


def test_a_half_made_cluster_is_made_again(folder: Path) -> None:
    """What a killed initdb left, without the completion marker, is cleared away."""
    one = Cluster("one", folder / "one", PORT, UNSAFE_SETTINGS)
    one.account.own(one.data)
    (one.data / "PG_VERSION").write_text("15\n")
    (one.data / "base").mkdir()
    assert one.create() is True
    one.start()
    assert ask(one.dsn(), "select 1") == 1


def test_a_crash_is_recovered_from_at_the_next_start(cluster: Cluster) -> None:
    """Rows committed before an immediate stop are there after the start."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("create table kept as select 42 as answer")
        connection.execute("checkpoint")
    cluster.stop("immediate")
    cluster.start()
    assert ask(cluster.dsn(), "select answer from kept") == 42


def test_a_stale_pid_file_that_names_another_process_does_not_stop_a_start(cluster: Cluster) -> None:
    """The pid in the file may belong to a stranger by now: it is neither believed nor touched."""
    cluster.stop()
    stranger = "1"
    (cluster.data / "postmaster.pid").write_text(f"{stranger}\n{cluster.data}\n")
    assert cluster.running is False
    assert cluster.stop() is False
    cluster.start()
    assert cluster.running


def test_a_taken_port_is_left_alone_and_the_next_one_remembered(folder: Path) -> None:
    """The cluster moves to a free port, and finds itself there again."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        one = Cluster("one", folder / "one", taken, UNSAFE_SETTINGS)
        one.create()
        one.start()
        assert one.port > taken
        assert Cluster("one", folder / "one", taken).port == one.port
        assert ask(one.dsn(), "select 1") == 1


def test_a_port_taken_while_the_server_was_down_is_replaced(cluster: Cluster) -> None:
    """A cluster whose remembered port was taken in the meantime starts on another."""
    cluster.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", cluster.port))
        other.listen()
        taken = cluster.port
        cluster.start()
        assert cluster.port != taken
        assert ask(cluster.dsn(), "select 1") == 1


def test_each_test_gets_a_catalogue_of_its_own(servers: Any) -> None:
    """What one test does to the catalogue is gone for the next."""
    first = servers.shadow.fresh_catalogue()
    with psycopg.connect(first, autocommit=True) as connection:
        connection.execute("drop table catalogue.geometrias cascade")
    second = servers.shadow.fresh_catalogue()
    assert ask(second, "select count(*) from catalogue.geometrias") == 5_000


def test_the_shadow_and_the_target_are_two_servers_with_the_same_database_name(servers: Any) -> None:
    """Clones live on a server that is never production."""
    names = {ask(server.dsn, "select current_database()") for server in (servers.target, servers.shadow)}
    systems = {ask(server.dsn, "select system_identifier from pg_control_system()") for server in servers}
    assert names == {"gis"}
    assert len(systems) == 3


@pytest.mark.timeout(150)
def test_cron_jobs_run_on_the_shadow_without_a_password(cron: str) -> None:
    """pg_cron starts jobs as background workers, so no password has to be kept where it could read it."""
    with psycopg.connect(cron, autocommit=True) as connection:
        connection.execute("select cron.schedule('probe', '* * * * *', 'select 1')")
        for _ in range(1_300):
            row = connection.execute(
                "select status, return_message from cron.job_run_details where status in ('succeeded', 'failed')"
            ).fetchone()
            if row is not None:
                break
            connection.execute("select pg_sleep(0.1)")
    assert row is not None
    assert row[0] == "succeeded", row[1]
