"""The report of rollback proofs passes only when everything that was owed is there and holds, and says so in plain words."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from comporta.reports.page import digest_of
from comporta.validation.model import Fault, Felt, Phase, Proof, Verdict
from comporta.validation.report import write_proof_report

NOW = datetime(2028, 11, 20, 12, tzinfo=UTC)
BOARD = {"OPT1": "Partition by time", "OPT2": "Cold rows in columns"}
SCENARIOS = {"restore": "Applied and rolled back.", "killed": "Terminated everywhere."}
ORDER = ("OPT1 with OPT2 on it", "order")
EXPECTED = [(change, scenario) for change in BOARD for scenario in SCENARIOS] + [ORDER]
HOSTILE = "</script><script>alert('são')</script><img src=x onerror=alert(1)>{{ 7*7 }}"


def proof(subject: str = "OPT1", scenario: str = "restore", **changes: Any) -> Proof:
    """A proof that holds, of 10 s and 100 acknowledged writes, with one fault and a run that was broken off."""
    values: dict[str, Any] = {
        "title": "Partition by time",
        "verdict": Verdict.HOLDS,
        "reasons": (),
        "scripts": {subject: {"apply": "a" * 64, "rollback": "b" * 64}, "support": {"10_core.sql": "c" * 64}},
        "target": "t" * 64,
        "before": "d" * 64,
        "applied": "e" * 64,
        "after": "d" * 64,
        "checksums_before": {"catalogue.geometrias": [5000, "f" * 32]},
        "checksums_after": {"catalogue.geometrias": [5000, "f" * 32]},
        "started": 1000.0,
        "seconds": 10.0,
        "phases": (
            Phase("OPT1", "apply", 1001.0, 2.0, 9, 9),
            Phase("OPT1", "rollback", 1004.0, 1.0, 3, 15, "terminating connection"),
            Phase("OPT1", "rollback", 1006.0, 2.0, 15, 15),
        ),
        "faults": (Fault("backend terminated", "rollback of OPT1, before statement 4", 1005.0, "run again"),),
        "felt": Felt(500, 100, 100, 0, 0, 0, 0.03, "rename", ((1001.0, 0.02), (1002.0, 0.03))),
        "rows": 5000,
        **changes,
    }
    return Proof(subject, scenario=scenario, **values)


def all_of_them(**changes: Any) -> list[Proof]:
    """Every expected proof; ``changes`` go to OPT2 · killed."""
    return [proof(*key, **(changes if key == ("OPT2", "killed") else {})) for key in EXPECTED]


def write(tmp_path: Path, proofs: list[Proof], **changes: Any) -> tuple[str, str, dict[str, Any]]:
    """The verdict, the page without plotly's own code, and the data beside it."""
    values: dict[str, Any] = {
        "board": BOARD,
        "scenarios": SCENARIOS,
        "expected": EXPECTED,
        "name": "trial",
        "title": "A trial",
        "run_id": "run-1",
        "started": NOW,
        "target": "me@db:5432/gis",
        "now": NOW,
        **changes,
    }
    report, verdict = write_proof_report(tmp_path, proofs, **values)
    page = report.html.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    return verdict, page, json.loads(report.json.read_text(encoding="utf-8"))


FAILING = {
    "verdict": Verdict.FAILS,
    "reasons": ("2 difference(s) in the catalogue",),
    "differences": ("grant SELECT on table t to reader: expected present, found absent",),
    "lost_writes": ("update of geometrias 4711: expected rev = 2, found rev = 1", "insert of 4712: found no row"),
    "conflicts": ("two rows have id 4713",),
    "notes": ("It is only a test.",),
}


def test_it_passes_when_everything_expected_holds(tmp_path: Path) -> None:
    verdict, _, data = write(tmp_path, all_of_them())
    assert verdict == data["verdict"] == "pass"
    assert data["counts"]["proofs"] == {"all": 4, "holds": 4, "fails": 0, "no data": 0, "not run": 0}
    assert data["counts"]["orders"]["holds"] == 1


def test_the_sentence_says_how_many_hold_what_was_lost_and_what_took_longest(tmp_path: Path) -> None:
    _, page, data = write(tmp_path, all_of_them(seconds=74.25))
    assert data["sentence"] == (
        "4 of 4 proofs hold and 1 of 1 orders; 0 of 500 acknowledged writes lost; the slowest, OPT2 · killed, took 74.2 s."
    )
    assert data["sentence"] in page


def test_a_proof_that_fails_stops_and_shows_its_evidence_at_once(tmp_path: Path) -> None:
    verdict, page, data = write(tmp_path, all_of_them(**FAILING))
    assert verdict == "stop"
    assert data["sentence"].startswith("3 of 4 proofs hold and 1 of 1 orders (OPT2 · killed fails); 2 of 500 ")
    for part in ("reasons", "differences", "lost_writes", "conflicts", "notes"):
        assert all(text in page for text in FAILING[part])
    assert re.findall(r'<details class="proof" id="(.*?)" open>', page) == ["proof-3"]


@pytest.mark.parametrize("verdict", [Verdict.FAILS, Verdict.NO_DATA])
def test_one_proof_without_success_stops_all(tmp_path: Path, verdict: Verdict) -> None:
    found, _, data = write(tmp_path, all_of_them(verdict=verdict))
    assert found == "stop"
    assert data["counts"]["proofs"][verdict] == 1


@pytest.mark.parametrize("missing", [("OPT2", "killed"), ORDER], ids=["a proof", "an order"])
def test_a_proof_that_is_missing_stops_and_is_named(tmp_path: Path, missing: tuple[str, str]) -> None:
    verdict, page, data = write(tmp_path, [each for each in all_of_them() if (each.subject, each.scenario) != missing])
    assert verdict == "stop"
    assert data["missing"] == [" · ".join(missing)]
    assert f"{' · '.join(missing)} was not run" in data["sentence"]
    assert "not run" in page


def test_nothing_to_prove_is_no_pass(tmp_path: Path) -> None:
    verdict, page, data = write(tmp_path, [], expected=[])
    assert verdict == "stop"
    assert data["sentence"] in page


def test_a_run_without_any_proof_still_writes_its_page(tmp_path: Path) -> None:
    verdict, page, data = write(tmp_path, [])
    assert verdict == "stop"
    assert data["counts"]["proofs"]["not run"] == 4
    assert "No proof is on record." in page


def test_a_cell_that_nobody_asked_for_stops_nothing(tmp_path: Path) -> None:
    verdict, page, data = write(tmp_path, [proof()], expected=[("OPT1", "restore")])
    assert verdict == "pass"
    assert [cell["verdict"] for row in data["board"] for cell in row["cells"]] == ["holds", *["not asked for"] * 3]
    assert "not asked for" in page


def test_a_failure_that_nobody_asked_for_stops_all_the_same(tmp_path: Path) -> None:
    proofs = [proof(), proof("OPT2", "killed", verdict=Verdict.FAILS)]
    assert write(tmp_path, proofs, expected=[("OPT1", "restore")])[0] == "stop"


@pytest.mark.parametrize(
    ("verdicts", "counts"),
    [
        ((Verdict.FAILS, Verdict.HOLDS), Verdict.FAILS),
        ((Verdict.HOLDS, Verdict.FAILS), Verdict.FAILS),
        ((Verdict.NO_DATA, Verdict.HOLDS), Verdict.HOLDS),
        ((Verdict.HOLDS, Verdict.NO_DATA), Verdict.HOLDS),
    ],
    ids=["failed, then held", "held, then failed", "no data, then held", "held, then no data"],
)
def test_of_several_attempts_a_failure_counts_whatever_came_after_it(
    tmp_path: Path, verdicts: tuple[Verdict, ...], counts: Verdict
) -> None:
    proofs = [proof(verdict=verdict, started=1000.0 + number) for number, verdict in enumerate(verdicts)]
    _, page, data = write(tmp_path, proofs, expected=[("OPT1", "restore")])
    cell = data["board"][0]["cells"][0]
    assert (cell["verdict"], cell["attempts"]) == (counts, 2)
    assert len(data["superseded"]) == 1
    assert "another attempt counts" in page


def test_an_order_tells_what_stood_what_went_and_what_stays(tmp_path: Path) -> None:
    order = proof(*ORDER, scripts={"OPT1": {}, "OPT2": {}, "support": {}})
    _, page, data = write(tmp_path, [order], board={}, scenarios={}, expected=[ORDER])
    assert data["orders"][0]["stood"] == ["OPT1", "OPT2"]
    assert data["orders"][0]["gone"] == ["OPT1"]
    assert data["orders"][0]["stays"] == ["OPT2"]
    assert "OPT1, OPT2" in page


def test_excused_failures_are_told_apart_with_the_fault_that_excuses_them(tmp_path: Path) -> None:
    crash = (Fault("server crash", "rollback of OPT1", 1005.0, "recovered in 1.8 s"),)
    felt = Felt(500, 100, 90, 10, 2, 7, 0.03)
    _, _, data = write(tmp_path, [proof(faults=crash, felt=felt), proof("OPT2")])
    restore = data["by_scenario"][0]
    assert (restore["failed"], restore["excused"], restore["excusing"]) == (2, 7, {"server crash": 1})
    assert data["figures"]["faults"] == {"server crash": 1, "backend terminated": 1}


def test_no_traffic_is_not_a_stall_of_zero(tmp_path: Path) -> None:
    _, page, data = write(tmp_path, [proof(felt=Felt())], expected=[("OPT1", "restore")])
    assert data["board"][0]["cells"][0]["longest_stall_s"] is None
    assert "no write was acknowledged, so none was put to the test" in data["sentence"]
    assert "no traffic" in page


def test_hostile_texts_are_shown_as_text(tmp_path: Path) -> None:
    texts: dict[str, Any] = dict.fromkeys(("reasons", "differences", "lost_writes", "conflicts", "notes"), (HOSTILE,))
    hostile = proof(
        HOSTILE,
        HOSTILE,
        **texts,
        title=HOSTILE,
        scripts={HOSTILE: {HOSTILE: HOSTILE}},
        phases=(Phase(HOSTILE, "rollback", 1000.0, 1.0, 1, 2, HOSTILE),),
        faults=(Fault(HOSTILE, HOSTILE, 1000.5, HOSTILE),),
        felt=Felt(1, 1, longest_stall_kind=HOSTILE, stalls=((1000.0, 0.1),)),
        checksums_after={HOSTILE: [1, HOSTILE]},
        shadow=HOSTILE,
    )
    for named in ("name", "title", "run_id", "target"):
        board, scenarios = {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}
        _, page, _ = write(tmp_path, [hostile], board=board, scenarios=scenarios, expected=[], **{named: HOSTILE})
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "&lt;script&gt;alert" in page
        assert "{{ 7*7 }}" in page


def test_equal_fingerprints_and_differing_checksums_are_marked(tmp_path: Path) -> None:
    _, page, _ = write(tmp_path, [proof(checksums_after={"catalogue.geometrias": [4999, "0" * 32]})])
    assert "<td>= after</td>" in page
    assert "≠ differs" in page


def test_a_table_that_is_gone_is_told(tmp_path: Path) -> None:
    _, page, _ = write(tmp_path, [proof(checksums_after={})])
    assert "absent" in page


def test_the_data_beside_the_page_give_every_proof_back(tmp_path: Path) -> None:
    proofs = all_of_them(**FAILING)
    _, page, data = write(tmp_path, proofs)
    assert [Proof.from_dict(record) for record in data["proofs"]] == proofs
    digest = data.pop("digest")
    assert digest_of(data) == digest
    assert digest in page
