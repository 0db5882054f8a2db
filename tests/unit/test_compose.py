"""The containers are the same system as ``make run``: same processes, same servers, same settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from comporta.local import environment
from comporta.local.cluster import BASE_SETTINGS, CATALOGUE_SETTINGS, REQUIRED_EXTENSIONS
from comporta.local.environment import WebPorts
from comporta.local.layout import Layout
from comporta.local.start import DEFAULT_WEB_PORT, FIRST_SERVER_PORT, Clusters
from comporta.local.supervisor import ANCHORER, COMPONENTS, HEALTH_MONITOR, commands

SECRETS = {
    "COMPORTA_CONTROL_PASSWORD": "c",
    "COMPORTA_TARGET_PASSWORD": "t",
    "COMPORTA_SHADOW_PASSWORD": "s",
    "COMPORTA_FERNET_KEY": "f",
    "COMPORTA_JWT_SECRET": "j",
    "COMPORTA_API_SECRET": "a",
    "COMPORTA_ADMIN_PASSWORD": "p",
    "COMPORTA_SERVICE_PASSWORD": "n",
}

# Settings of one machine that containers replace by something of their own.
ONLY_LOCAL = {
    "AIRFLOW_HOME": "the image sets it",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": "the image's folder is a volume",
    "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "each container has its own ports",
    "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "likewise",
    "AIRFLOW__API__HOST": "a container listens on all its addresses; the port is published on loopback",
    "AIRFLOW__API__PORT": "8080 inside the container",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "containers use FAB's users",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": "likewise",
}
# Values that must be equal, because they decide how the system behaves.
EQUAL = (
    "AIRFLOW__CORE__EXECUTOR",
    "AIRFLOW__CORE__PARALLELISM",
    "AIRFLOW__CORE__LOAD_EXAMPLES",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL",
    "AIRFLOW__API__WORKERS",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED",
)


class MissingVariable(Exception):
    """Compose would refuse to start: a variable is asked for with ``:?`` and not set."""


def render(text: str, variables: dict[str, str]) -> dict[str, Any]:
    """Substitute as Compose does (``$$``, ``${A}``, ``${A:-default}``, ``${A:?}``), then read the YAML."""

    def replace(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        name, rule, rest = match.group("name"), match.group("rule"), match.group("rest")
        if value := variables.get(name):
            return value
        if rule == ":?":
            raise MissingVariable(name)
        return rest or ""

    pattern = r"\$\$|\$\{(?P<name>[A-Z_]+)(?P<rule>:[-?])?(?P<rest>[^}]*)\}"
    return cast(dict[str, Any], yaml.safe_load(re.sub(pattern, replace, text)))


@pytest.fixture(scope="module")
def text(project: Path) -> str:
    return (project / "docker-compose.yaml").read_text()


@pytest.fixture(scope="module")
def services(text: str) -> dict[str, Any]:
    return cast(dict[str, Any], render(text, SECRETS)["services"])


@pytest.fixture(scope="module")
def dockerfile(project: Path) -> str:
    return (project / "Dockerfile").read_text()


class FakeCluster:
    port, password = 1, "x"

    def dsn(self, dbname: str) -> str:
        return make_conninfo(host="127.0.0.1", port=1, dbname=dbname, user="postgres", password="x")


@pytest.fixture(scope="module")
def local_environment(project: Path) -> dict[str, str]:
    one = cast(Any, FakeCluster())
    ports = WebPorts(DEFAULT_WEB_PORT, 8793, 8794)
    return environment.compose(Layout(project), control=one, target=one, shadow=one, web=ports, kept={})


def airflow_services(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if name.startswith("airflow-")}


def test_the_default_services_are_those_of_make_run(services: dict[str, Any]) -> None:
    """Without a profile, exactly the supervised processes and the three servers run, and a mail catcher."""
    started = {name for name, service in services.items() if "profiles" not in service}
    commands = {service["command"] for service in airflow_services(services).values() if "profiles" not in service
                and isinstance(service["command"], str)}  # fmt: skip
    assert commands == set(COMPONENTS)
    servers = set(Clusters.__dataclass_fields__) - {"root", "further"}
    assert started == servers | {"mail", "airflow-init", ANCHORER, HEALTH_MONITOR} | {
        f"airflow-{name.replace('api-server', 'apiserver')}" for name in COMPONENTS
    }


def test_the_anchorer_runs_as_under_make_run_and_alone_has_the_private_key(services: dict[str, Any]) -> None:
    anchorer = services[ANCHORER]
    program, *words = commands(Path("bin"))[ANCHORER]
    assert anchorer["command"] == [Path(program).name, *words]
    folder = Path(anchorer["environment"]["COMPORTA_ANCHOR_KEY"]).parent
    holders = [name for name, s in services.items() if any(str(folder) in v for v in s.get("volumes", ()))]
    assert holders == [ANCHORER]
    anchors = Path(anchorer["environment"]["COMPORTA_ANCHORS"]).parent
    writers = [name for name, s in services.items() if any(v.endswith(f":{anchors}") for v in s.get("volumes", ()))]
    assert writers == [ANCHORER]


def test_the_health_monitor_runs_as_under_make_run_and_sees_the_disk_of_the_target(services: dict[str, Any]) -> None:
    """It may read what others keep from it, and do nothing else that its user could."""
    monitor = services[HEALTH_MONITOR]
    program, *words = commands(Path("bin"))[HEALTH_MONITOR]
    assert monitor["command"] == [Path(program).name, *words]
    (files,) = services["target"]["volumes"]
    assert f"{files}:ro" in monitor["volumes"]
    assert (monitor["cap_drop"], monitor["cap_add"]) == (["ALL"], ["DAC_READ_SEARCH"])


def test_every_variable_of_make_run_is_set_in_the_containers(
    services: dict[str, Any], local_environment: dict[str, str]
) -> None:
    """A setting added for one machine must not be forgotten for the other."""
    for name, service in airflow_services(services).items():
        missing = set(local_environment) - set(service["environment"]) - set(ONLY_LOCAL)
        assert not missing, name


def test_values_that_decide_behaviour_are_equal(services: dict[str, Any], local_environment: dict[str, str]) -> None:
    """Executor, parallelism and intervals are the same."""
    scheduler = services["airflow-scheduler"]["environment"]
    assert {key: scheduler[key] for key in EQUAL} == {key: local_environment[key] for key in EQUAL}


def test_all_airflow_processes_share_their_secrets(services: dict[str, Any]) -> None:
    """A token signed by one process must be valid in all others."""
    for key in ("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY"):
        assert len({service["environment"][key] for service in airflow_services(services).values()}) == 1


@pytest.mark.parametrize("server", ["target", "shadow"])
def test_catalogue_servers_run_with_the_settings_of_make_run(services: dict[str, Any], server: str) -> None:
    """Same libraries preloaded, same database for pg_cron, and the rest."""
    flags = dict(argument.removeprefix("-c").split("=", 1) for argument in services[server]["command"][1:])
    wanted = {**BASE_SETTINGS, **CATALOGUE_SETTINGS}
    assert {key: wanted[key] for key in flags} == flags
    assert set(CATALOGUE_SETTINGS) | {"wal_level"} <= set(flags)
    assert services[server]["environment"]["POSTGRES_DB"] == CATALOGUE_SETTINGS["cron.database_name"]


@pytest.mark.parametrize("server", ["control", "target", "shadow"])
def test_addresses_lead_to_the_server_that_they_name(services: dict[str, Any], server: str) -> None:
    """DSN and Airflow connection agree in host, database and password; shadow and target never meet."""
    values = services["airflow-scheduler"]["environment"]
    parts = conninfo_to_dict(values[f"COMPORTA_{server.upper()}_DSN"])
    own = services[server]["environment"]
    assert (parts["host"], parts["dbname"], parts["password"]) == (server, own["POSTGRES_DB"], own["POSTGRES_PASSWORD"])
    assert values[f"AIRFLOW_CONN_{server.upper()}"] == (
        f"postgres://{parts['user']}:{parts['password']}@{server}:5432/{parts['dbname']}"
    )


def test_ports_are_those_of_make_run_and_open_on_loopback_only(services: dict[str, Any]) -> None:
    """Nothing is published to the network."""
    published = {name: service["ports"][0] for name, service in services.items() if "ports" in service}
    assert all(port.startswith("127.0.0.1:") for port in published.values())
    assert published["airflow-apiserver"] == f"127.0.0.1:{DEFAULT_WEB_PORT}:8080"
    for offset, name in enumerate(("control", "target", "shadow")):
        assert published[name] == f"127.0.0.1:{FIRST_SERVER_PORT + offset}:5432"


def test_every_lasting_service_has_a_health_check_and_restarts(services: dict[str, Any]) -> None:
    """Only the one that prepares the databases ends."""
    for name, service in services.items():
        if name == "airflow-init":
            assert service["restart"] == "no"
        else:
            assert service["healthcheck"]["test"], name
            assert service["restart"] == "unless-stopped", name


def test_dependencies_name_services_that_can_fulfil_them(services: dict[str, Any]) -> None:
    """A condition on health needs a health check; one on completion needs a service that ends."""
    for name, service in services.items():
        for other, rule in service.get("depends_on", {}).items():
            if rule["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"
            else:
                assert rule["condition"] == "service_completed_successfully"
                assert services[other]["restart"] == "no"


def test_images_are_pinned(services: dict[str, Any], dockerfile: str) -> None:
    """``latest`` would be another system tomorrow."""
    images = [service["image"] for service in services.values() if "build" not in service]
    images += re.findall(r"^FROM (\S+)", dockerfile, flags=re.MULTILINE)
    assert len(images) >= 4
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image


def test_build_targets_exist(services: dict[str, Any], dockerfile: str) -> None:
    """Each image is built from a stage of the Dockerfile."""
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", dockerfile, flags=re.MULTILINE))
    assert {service["build"]["target"] for service in services.values() if "build" in service} == stages


def test_the_image_has_the_airflow_that_was_tested(project: Path, dockerfile: str) -> None:
    """Image tag and pinned requirement move together."""
    pinned = re.search(r"^apache-airflow==(\S+)", (project / "requirements.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    assert f"FROM apache/airflow:{pinned.group(1)}-python3.11 " in dockerfile


def test_the_database_image_installs_what_the_catalogue_needs(dockerfile: str) -> None:
    """PostGIS and pg_cron come from packages; the others ship with the server."""
    stage = dockerfile.split("FROM ")[1]
    assert {"postgis", "pg_cron"} <= set(REQUIRED_EXTENSIONS)
    assert "-cron" in stage
    assert "-postgis-3-scripts" in stage


def test_what_is_copied_or_mounted_exists(project: Path, services: dict[str, Any], dockerfile: str) -> None:
    """A renamed folder must be renamed here too."""
    copied = [part for line in re.findall(r"^COPY (.+)$", dockerfile, flags=re.MULTILINE)
              for part in line.split()[:-1] if not part.startswith("--")]  # fmt: skip
    mounted = [volume.split(":")[0] for volume in services["airflow-scheduler"]["volumes"] if volume.startswith("./")]
    for name in {*copied, *mounted} - {"./archives", "./anchors"}:
        assert (project / name).exists(), name


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_a_missing_secret_is_refused(text: str, secret: str) -> None:
    """There are no default passwords."""
    with pytest.raises(MissingVariable, match=secret):
        render(text, {name: value for name, value in SECRETS.items() if name != secret})


def test_the_documented_commands_make_every_secret(project: Path) -> None:
    """docs/running.md tells how to make the file that Compose reads."""
    page = (project / "docs" / "running.md").read_text()
    assert [name for name in SECRETS if name not in page] == []


def test_every_pool_that_a_dag_names_is_made_at_the_start(project: Path, services: dict[str, Any]) -> None:
    """A task whose pool does not exist waits for ever, without an error."""
    from comporta.orchestration.wiring import SHADOW_POOL

    pools = json.loads((project / "config" / "pools.json").read_text())
    assert SHADOW_POOL in pools
    assert all(set(pool) == {"slots", "description", "include_deferred"} for pool in pools.values())
    assert "airflow pools import /opt/airflow/config/pools.json" in services["airflow-init"]["command"][0]
