"""A report is one file that fetches nothing, says what it was computed from, and shows hostile names as text."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from comporta.dryrun.report import write_dry_run_report
from comporta.release.model import Budget, DryRunPlan
from comporta.reports.folder import RunFolder
from comporta.reports.page import digest_of, plot

NOW = datetime(2028, 11, 20, 12, tzinfo=UTC)
HOSTILE = "<script>alert('são')</script><img src=http://evil.example/x.png onerror=alert(1)>\"'&{{ 7*7 }}"


class Candidate:
    """What the report needs to know of a change, under a name that an attacker chose."""

    name = HOSTILE
    title = HOSTILE
    budget = Budget()


class Outside(HTMLParser):
    """Collects what a browser would fetch, and every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [f"{tag} {key}={value}" for key, value in attrs if key in {"src", "srcset", "data", "poster"}]
        self.fetched += [f"{tag} {value}" for key, value in attrs if key == "href" and not str(value).startswith("#")]


def write(tmp_path: Path, **changes: Any) -> tuple[str, dict[str, Any]]:
    """The page without plotly's own code, and the data beside it."""
    folder = RunFolder.make(tmp_path, "stage2", "run-1", NOW)
    finding = {"code": "H22", "severity": "stop", "object": HOSTILE, "evidence": HOSTILE, "cure": HOSTILE}
    folder.write("preflight", {"findings": [finding], "fingerprint": "f" * 64})
    values = {"name": HOSTILE, "run_id": HOSTILE, "target": HOSTILE, "started": NOW, "plan": DryRunPlan(), **changes}
    report, _ = write_dry_run_report(folder, [Candidate()], **values)
    page = report.html.read_text(encoding="utf-8")
    assert get_plotlyjs() in page
    return page.replace(get_plotlyjs(), ""), json.loads(report.json.read_text(encoding="utf-8"))


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    page, _ = write(tmp_path, name="trial", run_id="run-1", target="me@db:5432/gis")
    outside = Outside()
    outside.feed(page)
    assert outside.fetched == []
    assert "link" not in outside.tags
    assert not re.search(r"@import|url\(", page)


def test_the_page_names_no_address_of_its_own(tmp_path: Path) -> None:
    page, _ = write(tmp_path, name="trial", run_id="run-1", target="me@db:5432/gis")
    shown = page.replace("http://evil.example/x.png", "")  # the hostile name, as text
    assert re.findall(r"https?://", shown) == []


def test_a_hostile_name_is_shown_as_text(tmp_path: Path) -> None:
    page, data = write(tmp_path)
    outside = Outside()
    outside.feed(page)
    assert "img" not in outside.tags
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "{{ 7*7 }}" in page
    assert data["name"] == HOSTILE


def test_a_hostile_name_in_a_plot_stays_inside_its_script() -> None:
    figure = go.Figure(go.Bar(x=["</script><script>alert(1)</script>"], y=[1]))
    assert "<script>alert" not in plot(figure)


def test_the_data_beside_the_page_carry_the_digest_that_the_page_shows(tmp_path: Path) -> None:
    page, data = write(tmp_path)
    digest = data.pop("digest")
    assert digest_of(data) == digest
    assert digest in page


def test_the_digest_does_not_depend_on_when_the_page_was_written(tmp_path: Path) -> None:
    assert write(tmp_path / "one")[1]["digest"] == write(tmp_path / "two")[1]["digest"]


def test_the_digest_changes_with_the_data(tmp_path: Path) -> None:
    assert write(tmp_path / "one")[1]["digest"] != write(tmp_path / "two", target="me@elsewhere/gis")[1]["digest"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_digest_survives_the_file_and_the_order_of_keys(data: dict[str, Any]) -> None:
    """Whoever reads the file computes what the gate was bound to."""
    reordered = dict(reversed(list(data.items())))
    assert digest_of(json.loads(json.dumps(data, ensure_ascii=False))) == digest_of(data) == digest_of(reordered)


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path)

    def power_cut(*_: object) -> None:
        raise OSError("no space left")

    folder = RunFolder(tmp_path / "2028-11-20" / "stage2-run-1")
    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(OSError, match="no space left"):
        write_dry_run_report(
            folder, [], name="x", run_id="x", target="x", started=NOW, plan=DryRunPlan()
        )  # fmt: skip
    assert (folder.path / "report.html").read_text(encoding="utf-8").replace(get_plotlyjs(), "") == before[0]
    assert json.loads((folder.path / "report.json").read_text(encoding="utf-8")) == before[1]


def test_a_change_that_did_not_run_is_a_stop_and_says_so(tmp_path: Path) -> None:
    page, data = write(tmp_path)
    assert data["verdict"] == "stop"
    assert "did not run" in page
