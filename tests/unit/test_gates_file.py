"""The gates file is refused by the name of what is wrong, and becomes the policy that a gate opens with."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from comporta.errors import ConfigurationError
from comporta.gates.policy import ABOUT_NO_GATE, GatesFile, When, load_policy
from comporta.notices.model import Notice
from comporta.release.model import load_release

WHOLE = """
people: {cfo: {name: CFO, email: cfo@localhost}, po: {name: PO, cli: [paula]}}
roles: {CFO: [cfo], PO: [po, cfo]}
gates: {ship: {title: Ship, question: 'May it?', needs: {PO: 1}, requires: [proved]}}
readiness: {owners: [PO], checklist: {proved: {title: Proved, owner: PO}}}
daily_sync: {gates: [ship]}
escalation: [{when: opened, tell: [holders]}]
"""


def load(tmp_path: Path, **changes: object) -> GatesFile:
    content = yaml.safe_load(WHOLE) | changes
    file = tmp_path / "gates.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_policy(file)


@pytest.fixture
def shipped(project: Path) -> GatesFile:
    return load_policy(project / "config/gates.yaml")


def test_the_shipped_file_loads_and_its_author_is_somebody_it_knows(shipped: GatesFile, project: Path) -> None:
    author = load_release(project / "config/release.yaml", project / "sql").author
    for gate in shipped.gates:
        assert author in shipped.policy(gate, author=author, trigger=None).excluded


def test_every_shipped_gate_can_be_opened_by_those_who_are_not_excluded(shipped: GatesFile, project: Path) -> None:
    author = load_release(project / "config/release.yaml", project / "sql").author
    for gate in shipped.gates:
        policy = shipped.policy(gate, author=author, trigger="admin")
        for need in policy.needs:
            assert len(set(policy.holders[need.role]) - policy.excluded.keys()) >= need.count


def test_the_production_gate_takes_four_sign_offs(shipped: GatesFile) -> None:
    assert shipped.gates["rollout"].needs == {"CFO": 1, "PO": 1, "Compliance": 1, "Security": 1}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"roles": {"CFO": ["nobody"], "PO": ["po"]}}, "roles.CFO: no person nobody"),
        ({"roles": {"CFO": [], "PO": ["po"]}}, "roles.CFO: nobody holds it"),
        ({"gates": {"ship": {"title": "S", "question": "?", "needs": {"CTO": 1}}}}, "gates.ship.needs.CTO: no such role"),
        ({"gates": {"ship": {"title": "S", "question": "?", "needs": {"PO": 0}}}}, "gates.ship.needs.PO"),
        ({"gates": {"ship": {"title": "S", "question": "?", "needs": {"PO": 1}, "need": 1}}}, "gates.ship.need: unknown key"),
        (
            {"gates": {"ship": {"title": "S", "question": "?", "needs": {"PO": 1}, "requires": ["x"]}}},
            "gates.ship.requires: no checklist item x",
        ),
        ({"readiness": {"owners": ["CTO"]}}, "readiness.owners: no role CTO"),
        ({"daily_sync": {"gates": ["land"]}}, "daily_sync.gates: no gate land"),
        ({"escalation": [{"when": "opened", "tell": ["CTO"]}]}, "escalation.0.tell: CTO is neither a role nor one of"),
        ({"escalation": [{"when": "sometimes", "tell": ["PO"]}]}, "escalation.0.when"),
        (
            {"escalation": [{"when": "rolled_back", "tell": ["holders"]}]},
            "escalation.0.tell: rolled_back is about no gate, so that holders is nobody",
        ),
        (
            {"escalation": [{"when": "rollout_finished", "tell": ["everyone"], "gates": ["ship"]}]},
            "escalation.0.gates: rollout_finished is about no gate",
        ),
        (
            {"people": {"cfo": {"name": "C", "cli": ["x"]}, "po": {"name": "P", "cli": ["x"]}}},
            "people.po.cli: x stands for cfo already",
        ),
        ({"people": {"cfo": {"name": "C", "email": "nowhere"}, "po": {"name": "P"}}}, "people.cfo.email"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, **changes)
    assert named in str(caught.value)


def test_every_notice_but_of_one_who_was_not_reached_is_an_occasion_of_the_matrix() -> None:
    assert {*get_args(When), Notice.UNREACHED} == set(Notice)
    assert set(get_args(When)) >= ABOUT_NO_GATE


def test_who_started_the_run_and_the_author_may_not_decide(tmp_path: Path) -> None:
    policy = load(tmp_path).policy("ship", author="CFO", trigger="po")
    assert policy.excluded == {"cfo": "author of the release", "po": "started the run"}


def test_an_author_whom_nobody_knows_is_refused(tmp_path: Path) -> None:
    """Nobody could be kept from deciding on their own work."""
    with pytest.raises(ConfigurationError, match='the author of the release, "somebody"'):
        load(tmp_path).policy("ship", author="somebody", trigger=None)


def test_an_owner_is_asked_whoever_started_the_run(tmp_path: Path) -> None:
    policy = load(tmp_path).readiness_policy("PO")
    assert (policy.holders, policy.excluded) == ({"PO": ("po", "cfo")}, {})


def test_a_user_of_this_machine_stands_for_a_person_where_the_file_says_so(tmp_path: Path) -> None:
    file = load(tmp_path)
    assert (file.person_of_cli("paula"), file.person_of_cli("cfo"), file.person_of_cli("root")) == ("po", "cfo", "root")


def test_a_gate_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match='no gate "land" in the gates file: it has ship'):
        load(tmp_path).plan("land")
