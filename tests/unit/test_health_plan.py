"""The health section of a release is refused by the name of what is wrong, and gives each signal its limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from comporta.errors import ConfigurationError
from comporta.release.health import HealthPlan, Limit
from comporta.release.model import load_release


def plan(**given: Any) -> HealthPlan:
    return HealthPlan.model_validate(given)


def refusal(**given: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        plan(**given)
    return str(caught.value)


def test_the_shipped_release_watches_every_signal(project: Path) -> None:
    release = load_release(project / "config/release.yaml", project / "sql")
    watched = [name for name in release.health.signals.names if release.health.signals[name].not_watched is None]
    assert watched == ["errors", "latency", "lock_waits", "replication_lag", "disk", "dead_tuples", "connections"]
    assert set(release.canaries) < set(release.dry_run.queries)


def test_a_release_without_a_health_section_is_watched_all_the_same() -> None:
    assert plan().signals.names == plan(signals={}).signals.names
    assert plan().canaries == ()


@pytest.mark.parametrize(
    ("limit", "baseline", "expected"),
    [
        ({"at_most": 5}, None, 5),
        ({"at_most": 5}, 100.0, 5),
        ({"times": 3, "floor": 50}, 100.0, 300),
        ({"times": 3, "floor": 50}, 1.0, 50),
        ({"times": 3, "floor": 50}, None, None),
        ({"times": 3, "floor": 50, "at_most": 200}, 100.0, 200),
        ({"times": 3, "floor": 50, "at_most": 200}, 20.0, 60),
        ({"times": 3, "floor": 50, "at_most": 200}, None, None),
    ],
    ids=["absolute", "absolute, whatever was normal", "relative", "never under its floor", "no baseline",
         "the lower of both", "the lower of both, relative", "both, no baseline"],
)  # fmt: skip
def test_a_limit_is_absolute_or_relative_to_what_was_normal(
    limit: dict[str, Any], baseline: float | None, expected: float | None
) -> None:
    assert Limit.model_validate(limit).bound(baseline) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"evry_s": 5}, "evry_s"),
        ({"signals": {"sql": {"queue": {"query": "select 1"}}}}, "expected at_most, or times with floor"),
        ({"signals": {"latency": {"times": 3, "floor": None}}}, "times and floor go together"),
        ({"signals": {"errors": {"at_most": 1.5}}}, "less than or equal to 1"),
        ({"signals": {"sql": {"queue": {"query": "select 1", "at_most": float("inf")}}}}, "finite number"),
        ({"signals": {"disk": {"not_watched": "because"}}}, "at least 10 characters"),
        ({"signals": {"sql": {"latency": {"query": "select 1", "at_most": 1}}}}, "latency: that name is taken"),
        ({"signals": {"sql": {"all": {"query": "select 1", "at_most": 1}}}}, "all: that name is taken"),
        ({"signals": {"sql": {"sql": {"query": "select 1", "at_most": 1}}}}, "sql: that name is taken"),
        ({"min_samples": 100}, "never fit into window_s"),
        ({"stale_s": 8}, "less than two looks may take"),
        ({"keep_h": 0.001}, "less than window_s"),
        ({"canaries": ["a", "a"]}, "named twice"),
        ({"bad_rate": 0}, "greater than 0"),
    ],
)
def test_what_could_never_stop_anything_is_refused(given: dict[str, Any], said: str) -> None:
    assert said in refusal(**given)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("delete from t", "expected one SELECT"),
        ("select 1; select 2", "expected one SELECT"),
        ("with gone as (delete from t returning 1) select * from gone", "found DeleteStmt"),
        ("select 1 into t", "found IntoClause"),
        ("select * from t for update", "found LockingClause"),
        ("select from where", "is not SQL"),
        ("", "expected one SELECT"),
    ],
    ids=["a delete", "two statements", "a delete inside", "a new table", "row locks", "no SQL", "nothing"],
)
def test_a_query_that_does_not_only_read_is_refused(query: str, said: str) -> None:
    assert said in refusal(queries={"q": query})
    assert said in refusal(signals={"sql": {"s": {"query": query, "at_most": 1}}})
    with pytest.raises(ValueError, match=said):
        plan(canaries=["q"]).canary_queries({"q": query})


def test_a_canary_is_one_of_the_catalogues_queries_or_of_its_own() -> None:
    own = plan(canaries=["theirs", "mine"], queries={"mine": "select 2"})
    assert own.canary_queries({"theirs": "select 1", "other": "drop table t"}) == {
        "theirs": "select 1",
        "mine": "select 2",
    }
    with pytest.raises(
        ValueError, match=r"nobodys is neither in dry_run.queries nor in health.queries; they have mine"
    ):
        plan(canaries=["nobodys"], queries={"mine": "select 2"}).canary_queries({})
    with pytest.raises(ValueError, match="both have mine"):
        own.canary_queries({"mine": "select 1", "theirs": "select 1"})


def test_a_release_file_with_an_unknown_canary_is_refused_by_its_name(project: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((project / "config/release.yaml").read_text(encoding="utf-8"))
    content["health"]["canaries"] = ["by_id", "by_name"]
    file = tmp_path / "release.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="by_name is neither"):
        load_release(file, project / "sql")


def test_a_signal_is_found_by_its_name() -> None:
    signals = plan(signals={"sql": {"queue": {"query": "select 1", "at_most": 3}}}).signals
    assert signals.names[-1] == "queue"
    assert signals["queue"] is signals.sql["queue"]
    assert signals["disk"] is signals.disk
    for name in ("sql", "nothing"):
        with pytest.raises(KeyError):
            signals[name]
