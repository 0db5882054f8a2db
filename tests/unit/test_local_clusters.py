"""Which servers a checkout has: three, and the further shadows that were asked for once."""

from __future__ import annotations

from pathlib import Path

import pytest

from comporta.local import start
from comporta.local.layout import Layout
from comporta.local.start import Clusters, newest_report
from comporta.settings import FURTHER_SHADOWS


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(start, "server_root", lambda preferred, _: preferred)
    return Layout(tmp_path)


def names(clusters: Clusters) -> list[str]:
    return [cluster.name for cluster in clusters]


def test_without_a_wish_there_is_one_shadow(layout: Layout) -> None:
    assert names(Clusters.of(layout)) == ["control", "target", "shadow"]


def test_each_further_shadow_is_one_like_the_first_on_a_port_of_its_own(layout: Layout) -> None:
    clusters = Clusters.of(layout, 3)
    assert names(clusters) == ["control", "target", "shadow", "shadow_2", "shadow_3"]
    assert len({cluster.port for cluster in clusters}) == 5
    assert len({(tuple(each.settings.items()), each.initdb_options) for each in clusters.shadows}) == 1


def test_as_many_shadows_can_be_had_as_settings_know(layout: Layout) -> None:
    assert names(Clusters.of(layout, 4))[3:] == list(FURTHER_SHADOWS)


def test_a_shadow_that_is_there_stays_though_nobody_asks_for_it_again(layout: Layout) -> None:
    (Clusters.of(layout).root / "shadow_2").mkdir(parents=True)
    assert names(Clusters.of(layout)) == ["control", "target", "shadow", "shadow_2"]


def test_the_report_of_a_dry_run_is_not_that_of_the_proofs_beside_it(tmp_path: Path) -> None:
    for name in ("stage2-one/report.html", "stage3-one/rollback_proofs.html"):
        file = tmp_path / "2026-01-01" / name
        file.parent.mkdir(parents=True)
        file.write_text("")
    found = newest_report(tmp_path, stage="stage2", since=0)
    assert found is not None
    assert found.name == "report.html"
