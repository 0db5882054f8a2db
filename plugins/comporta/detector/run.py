"""One backtest: load, quality, run, score, gates, benchmark, report. Each step may run in a process of its own.

``result.json`` holds what was found, and the digests of the data, the settings and the code it was found with. It knows no time and
no place: the same three give the same bytes. When and where is in ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml

from comporta.detector.alert import KINDS, Alert
from comporta.detector.bars import Adjustment, Bars
from comporta.detector.baselines import BASELINES
from comporta.detector.gates import Verdict, Wins, gates_of, wins_of
from comporta.detector.guards import Detect, GuardFailed, GuardResult, require, run_guards
from comporta.detector.nulls import null_draws, null_of
from comporta.detector.probe import open_bars, save_bars
from comporta.detector.processor import processador_bdi
from comporta.detector.quality import quality_of
from comporta.detector.score import Detection, score
from comporta.detector.settings import DetectorSettings
from comporta.detector.sources import read_bars
from comporta.detector.synthetic import make_synthetic
from comporta.detector.trades import Trade, trades_of
from comporta.detector.truth import Episode, Truth, truth_of
from comporta.errors import ConfigurationError, UnreachableServer
from comporta.ledger import EventType, Ledger, NewEvent
from comporta.reports.folder import RunFolder
from comporta.reports.page import Report
from comporta.settings import Settings

if TYPE_CHECKING:
    from comporta.detector.tuning import Tuning

STAGE = "backtest"
FEATURE = "detector"
SETTINGS_FILE = Path("config/detector.yaml")
TUNING_FILE = Path("config/detector-tuning.yaml")
STEPS = ("load", "quality", "run", "score", "gates", "benchmark", "report")
GATED = "volatility_range"
"""The kind of alerts that the three gates judge: the truth is of episodes of volatility, and this detector is made for them."""
REWARD_RISKS = (0.5, 1.0, 2.5)
LIVE_SESSIONS = 60
SYNTHETIC_SESSIONS = 120
PROBE_TIMEOUT_S = 300
Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Where the bars come from: a file with what it does not say of itself, or ``synthetic`` sessions drawn with ``seed``."""

    file: Path | None = None
    tz: str | None = None
    symbol: str = "WIN"
    adjustment: Adjustment = "none"
    period_min: int | None = None
    synthetic: int | None = None
    seed: int = 7
    zero_edge: bool = False

    def bars(self, settings: DetectorSettings) -> tuple[Bars, dict[str, Any] | None]:
        """The bars, and for synthetic ones what was planted in them."""
        if (self.file is None) == (self.synthetic is None):
            raise ConfigurationError(
                f"expected a file of bars or synthetic sessions, found {'neither' if self.file is None else 'both'}",
                remedy="Such as: comporta backtest bars.csv --tz America/Sao_Paulo    comporta backtest --synthetic 120",
            )
        if self.file is not None:
            read = read_bars(
                self.file, tz=self.tz, symbol=self.symbol, adjustment=self.adjustment, period_min=self.period_min,
                exchange_tz=settings.market.tz,
            )  # fmt: skip
            return read, None
        bars, planted = make_synthetic(
            int(self.synthetic or 0), self.seed, zero_edge=self.zero_edge, market=settings.market
        )
        return bars, {"seed": planted.seed, "zero_edge": planted.zero_edge, "episodes": len(planted.episodes)}


def detect(bars: Bars, settings: DetectorSettings) -> tuple[Alert, ...]:
    """Every alert of ``bars``, by the candle loop that also watches the market; longer bars are made all at once, for speed."""
    return tuple(processador_bdi(bars.resampled(settings.market.period_min), settings))


def check_live_loop(said: Sequence[Alert], bars: Bars, settings: DetectorSettings) -> GuardResult:
    """Feed ``bars`` one by one, as they would come on a trading day: the live loop must say what the backtest ``said``."""
    live = tuple(processador_bdi(iter(bars), settings))
    wrong = len(set(said) ^ set(live))
    return GuardResult(
        "live loop", wrong == 0, len(live), wrong, f"{wrong} of {len(live)} alerts differ when bars come one by one."
    )


def load_detector_settings(path: Path) -> DetectorSettings:
    """The settings of a YAML file; ConfigurationError names the file and what is wrong in it."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})", remedy="Check the path.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: is not YAML: {error}", remedy="Correct the file.") from error
    try:
        return DetectorSettings.from_mapping(content or {})
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}", remedy=error.remedy) from error


def code_digest() -> str:
    """SHA-256 over the names and contents of every module of the detector."""
    root = Path(__file__).parent
    whole = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        whole.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return whole.hexdigest()


@dataclass
class Backtest:
    """One run over one source of bars. ``detector`` stands in for the real one, for those who test the guards."""

    settings: DetectorSettings
    source: Source
    folder: RunFolder
    run_id: str
    started: datetime
    actor: str
    say: Say
    ledger: Ledger | None = None
    archives: Path | None = None
    home: Path = Path()
    tuning_file: Path = TUNING_FILE
    guards: bool = True
    tuned: bool = False
    detector: Callable[[Bars, DetectorSettings], Sequence[Alert]] = detect

    # -- the steps ---------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the bars, and keep them as columns beside what they were read from."""
        self._record(EventType.BACKTEST_STARTED, None, {"settings": self.settings.digest})
        bars, planted = self.source.bars(self.settings)
        meta = save_bars(str(self.folder.path / "bars.npz"), bars)
        self.folder.write("load", {"bars": len(bars), "meta": meta, "planted": planted})
        self.folder.write(
            "manifest",
            {
                "run_id": self.run_id,
                "started": self.started.isoformat(),
                "actor": self.actor,
                "python": sys.version.split()[0],
                "numpy": np.__version__,
            },
        )
        self.__dict__.pop("bars", None)
        self.say(f"{bars.source}: {len(bars):,} bars of {bars.period_min} min, {len(bars.sessions)} sessions")

    def quality(self) -> None:
        """Look at what is wrong with the bars; nothing is mended."""
        found = quality_of(self.bars, market=self.settings.market)
        self.folder.write("quality", found.to_dict())
        self.say(f"data quality: {found.verdict}")

    def run(self) -> None:
        """Let the detector see bar after bar, and the guards see whether it saw more than that; GuardFailed ends the run."""
        said: Detect = lambda bars: self.detector(bars, self.settings)  # noqa: E731 - one line says it best
        alerts = said(self.bars)
        results: tuple[GuardResult, ...] = ()
        if self.guards:
            results = (*run_guards(said, self.bars, self.settings), check_live_loop(alerts, self.bars, self.settings))
        self.folder.write("guards", [each.to_dict() for each in results])
        try:
            require(results)
        except GuardFailed as error:
            self._record(EventType.BACKTEST_GUARD_FAILED, "run", {"why": error.message})
            raise
        self.folder.write("alerts", [each.to_dict() for each in alerts])
        self.say(
            f"{len(alerts):,} alerts; {len(results)} guards passed"
            if results
            else f"{len(alerts):,} alerts; no guard ran"
        )

    def score(self) -> None:
        """Tell with hindsight what there was to be detected, and how much of it was."""
        truth = truth_of(self.bars, self.settings)
        self.folder.write("truth", asdict(truth))
        found = score(truth, self.alerts_of(), self.settings)
        self.folder.write("score", found.to_dict(self.settings))
        self.say(
            f"{found.capture.hits} of {found.capture.n} opportunities captured, {found.false_positives.hits} false alerts"
        )

    def gates(self) -> dict[str, Any]:
        """Trade the alerts, hold everything against baselines and nulls, judge the gates, and write the result."""
        truth, alerts = self.truth(), self.alerts_of()
        detection = score(truth, alerts, self.settings)
        trades, wins = self._traded(alerts, truth)
        baselines = {
            name: self._baseline(alerter(self.bars, self.settings), truth) for name, alerter in BASELINES.items()
        }
        board = gates_of(detection, wins, self.settings, baselines=baselines)
        quality, guards = self.folder.read("quality"), self.folder.read("guards")
        verdict, reasons = _verdict(board.verdict, quality["verdict"], guarded=bool(guards))
        loaded = self.folder.read("load")
        result = {
            "verdict": verdict,
            "reasons": reasons,
            "gates": board.to_dict(),
            "bound_to": {"data": self.bars.sha256, "settings": self.settings.digest, "code": code_digest()},
            "bars": {**_about(self.bars), "planted": loaded["planted"]},
            "quality": {"verdict": quality["verdict"], "findings": quality["findings"]},
            "guards": guards,
            "gated": GATED,
            "detection": detection.to_dict(self.settings),
            "findings": [asdict(each) for each in detection.findings],
            "reward_risks": [self._at(ratio, alerts, truth) for ratio in REWARD_RISKS],
            "kinds": [
                {"kind": kind, "gated": kind == GATED, **_row(*known)}
                for kind in KINDS
                for known in [(detection, wins) if kind == GATED else self._baseline(self.alerts_of(kind), truth)]
            ],
            "baselines": [{"name": name, **_row(found, traded)} for name, (found, traded) in baselines.items()],
            "settings": self.settings.to_mapping(),
        }
        self.folder.write("trades", [each.to_dict() for each in trades])
        self.folder.write("result", result)
        self.say(" · ".join(f"{name} {gate['verdict']}" for name, gate in result["gates"].items()))
        return result

    def benchmark(self) -> None:
        """Run the live part over the last 60 sessions in a fresh process, and hold it against the targets."""
        bars = self.bars
        live = bars[bars.session > int(bars.session[-1]) - LIVE_SESSIONS]
        file, told = self.folder.path / "probe.npz", self.folder.path / "probe.json"
        self.folder.write("probe", {"bars": save_bars(str(file), live), "settings": self.settings.to_mapping()})
        try:
            done = subprocess.run(
                [sys.executable, "-m", "comporta.detector.probe", str(file), str(told)],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise ConfigurationError(
                f"the live process ended with status {error.returncode}: {error.stderr.strip()[-400:]}",
                remedy="Run `python -m comporta.detector.probe` by hand with the files of the run's folder.",
            ) from error
        finally:
            file.unlink(missing_ok=True)
            told.unlink(missing_ok=True)
        measured = json.loads(done.stdout)
        self.folder.write("benchmark", {"measured": measured, "targets": _targets(measured)})
        peak = measured["peak_rss_mb"]
        self.say(
            f"live process: p99 {measured['bar_us']['p99']:.0f} µs a bar, peak {'unknown' if peak is None else f'{peak:.0f} MB'}"
        )

    def report(self) -> tuple[Report, str]:
        """Write the page of whatever this run has, record the verdict, and return both."""
        from comporta.detector.report import write_backtest_report  # draws: loaded by the step that needs it

        report = write_backtest_report(self.folder, self.bars, self.started, datetime.now(UTC))
        result = self.result()
        self._record(
            EventType.BACKTEST_FINISHED,
            None,
            {
                "verdict": result["verdict"],
                "tuned": self.tuned,
                "gates": {name: gate["verdict"] for name, gate in result["gates"].items()},
                "bound_to": result["bound_to"],
                "result": self.result_digest(),
                "report": self.place(report.html),
                "folder": self.place(self.folder.path),
                "digest": report.digest,
            },
        )
        return report, result["verdict"]

    def run_all(self, on_step: Callable[[str], None] = lambda _: None) -> tuple[Report, str]:
        """Every step in its order; ``on_step`` is told of each that begins."""
        for name in STEPS[:-1]:
            on_step(name)
            getattr(self, name)()
        on_step(STEPS[-1])
        return self.report()

    # -- when a gate fails ---------------------------------------------------------------------------------------------

    def tune(self, shard: int = 0, shards: int = 1) -> int:
        """Try one share of the grid, on every split of the walk-forward; returns how many settings it held."""
        from comporta.detector.tuning import Workbench, candidates
        from comporta.detector.tuning import shards as dealt

        plan = self._tuning_plan()
        mine = dealt(candidates(plan, self.settings), shards)[shard:][:1]
        bench = Workbench.of(self.bars, self.settings, plan) if mine else None
        tried = [trial for some in mine for each in some for trial in bench.evaluate(each)] if bench else []
        self.folder.write(f"trials-{shard}", [trial.to_dict() for trial in tried])
        return sum(map(len, mine))

    def choose(self) -> dict[str, Any]:
        """Add up what every share tried: what each split chose, what is left of it out of sample, and the advice."""
        from comporta.detector.tuning import Trial, splits, tuned

        files = sorted(self.folder.path.glob("trials-*.json"))
        trials = [Trial.from_dict(each) for file in files for each in self.folder.read(file.stem)]
        plan = self._tuning_plan()
        found = tuned(trials, splits(self.truth().sessions, plan), plan, self.settings)
        told = found.to_dict() | {"tuned_settings": found.tuned_settings.to_mapping()}
        self.folder.write("tuning", told)
        kept = ("trials", "decay", "deflated", "candidate", "adopt", "advice")
        self._record(EventType.BACKTEST_TUNED, "tune", {name: told[name] for name in kept})
        self.say(told["advice"])
        return told

    def again(self, on_step: Callable[[str], None] = lambda _: None) -> tuple[Report, str]:
        """Run once more over the same bars with what tuning chose; its page says that tuning has seen a part of them."""
        told = self.folder.read("tuning")
        run_id = f"{self.run_id}-tuned"
        second = replace(
            self,
            settings=DetectorSettings.from_mapping(told["tuned_settings"]),
            run_id=run_id,
            tuned=True,
            folder=RunFolder.make(self.archives or self.folder.path.parents[1], STAGE, run_id, self.started),
        )
        second.folder.write("tuning", told)
        return second.run_all(on_step)

    def _tuning_plan(self) -> Tuning:
        from comporta.detector.tuning import Tuning

        return Tuning.from_file(self.tuning_file)

    # -- what they share ---------------------------------------------------------------------------------------------

    @cached_property
    def bars(self) -> Bars:
        """The bars that ``load`` kept."""
        return open_bars(str(self.folder.path / "bars.npz"), self.folder.read("load")["meta"])

    def alerts(self) -> list[Alert]:
        """Every alert that ``run`` kept."""
        return [Alert(**each) for each in self.folder.read("alerts")]

    def alerts_of(self, kind: str = GATED) -> list[Alert]:
        """Those of one kind; by default those that the gates judge."""
        return [each for each in self.alerts() if each.kind == kind]

    def truth(self) -> Truth:
        """What ``score`` told with hindsight."""
        told = self.folder.read("truth")
        episodes = {name: tuple(Episode(**each) for each in told[name]) for name in ("opportunities", "zones")}
        return Truth(**episodes, sessions=tuple(told["sessions"]))

    def result(self) -> dict[str, Any]:
        """What ``gates`` wrote."""
        result: dict[str, Any] = self.folder.read("result")
        return result

    def result_digest(self) -> str:
        """SHA-256 of the bytes of ``result.json``."""
        return hashlib.sha256((self.folder.path / "result.json").read_bytes()).hexdigest()

    def _traded(
        self, alerts: Sequence[Alert], truth: Truth, ratio: float | None = None
    ) -> tuple[Sequence[Trade], Wins]:
        trades = trades_of(self.bars, alerts, self.settings, reward_risk=ratio, sessions=truth.sessions)
        null = null_of(null_draws(self.bars, trades, truth.sessions, self.settings), trades, self.settings)
        return trades, wins_of([(trades, truth.sessions)], null, self.settings, reward_risk=ratio)

    def _baseline(self, alerts: Sequence[Alert], truth: Truth) -> tuple[Detection, Wins]:
        return score(truth, alerts, self.settings), self._traded(alerts, truth)[1]

    def _at(self, ratio: float, alerts: Sequence[Alert], truth: Truth) -> dict[str, Any]:
        wins = self._traded(alerts, truth, ratio)[1]
        return {**wins.rate.to_dict(), **wins.to_dict(), "reward_risk": ratio}

    def place(self, path: Path) -> str:
        """Where a file lies under the archives."""
        return str(path.relative_to(self.archives)) if self.archives else path.name

    def _record(self, event_type: EventType, phase: str | None, payload: Mapping[str, Any]) -> None:
        record(self.ledger, self.run_id, self.actor, event_type, phase, payload)


def record(
    ledger: Ledger | None, run_id: str, actor: str, event_type: EventType, phase: str | None, payload: Mapping[str, Any]
) -> None:
    """Append one event to the stream of a backtest; without a ledger nothing is kept."""
    if ledger is not None:
        event = NewEvent(
            event_type=event_type, feature=FEATURE, workflow=STAGE, phase=phase, payload=payload, actor=actor
        )
        ledger.append(f"{STAGE}/{run_id}", [event])


def configured_source(
    settings: Settings,
    *,
    file: str | None = None,
    tz: str | None = None,
    symbol: str | None = None,
    adjustment: Adjustment | None = None,
    synthetic: int = SYNTHETIC_SESSIONS,
) -> Source:
    """Where the bars of a run come from: what was asked for, else COMPORTA_BARS, else ``synthetic`` sessions."""
    path = settings.home / file if file else settings.bars_path
    if path is None:
        return Source(synthetic=synthetic)
    return Source(
        file=path,
        tz=tz or settings.bars_tz or None,
        symbol=symbol or settings.bars_symbol,
        adjustment=adjustment or settings.bars_adjustment,
    )


@contextmanager
def open_backtest(
    settings: Settings,
    *,
    source: Source,
    run_id: str,
    started: datetime,
    actor: str,
    say: Say,
    detector: DetectorSettings | Path | None = None,
    guards: bool = True,
    record: Literal["always", "if it answers", "never"] = "always",
) -> Iterator[Backtest]:
    """Build a backtest with everything that it talks to; the same ``run_id`` and ``started`` go on with the same run.

    ``detector`` is the settings, or their file; the project's by default. Without a control server nothing is recorded, nor
    ``if it answers`` and it does not.
    """
    if not isinstance(detector, DetectorSettings):
        detector = load_detector_settings(detector or settings.home / SETTINGS_FILE)
    with ExitStack() as stack:
        ledger = None
        if settings.control_dsn and record != "never":
            try:
                ledger = stack.enter_context(Ledger(settings.require("control")))
            except UnreachableServer as error:
                if record == "always":
                    raise
                say(f"nothing is recorded in the ledger: {error.message}")
        yield Backtest(
            settings=detector,
            source=source,
            folder=RunFolder.make(settings.archives_path, STAGE, run_id, started),
            run_id=run_id,
            started=started,
            actor=actor,
            say=say,
            ledger=ledger,
            archives=settings.archives_path,
            home=settings.home,
            tuning_file=settings.home / TUNING_FILE,
            guards=guards,
        )


def _verdict(gates: Verdict, quality: str, *, guarded: bool) -> tuple[str, list[str]]:
    """The verdict of the whole run, and why it is not that of the gates, where it is not."""
    reasons = []
    if quality == "stop":
        reasons.append(
            "The data quality says stop: a result would say something about the file and not about the market."
        )
        return Verdict.FAIL.value, reasons
    if not guarded:
        reasons.append("No guard ran: nobody knows whether the detector saw the future.")
        if gates is Verdict.PASS:
            return Verdict.INSUFFICIENT.value, reasons
    return gates.value, reasons


def _about(bars: Bars) -> dict[str, Any]:
    return {
        "source": bars.source,
        "symbol": bars.symbol,
        "tz": bars.tz,
        "adjustment": bars.adjustment,
        "period_min": bars.period_min,
        "bars": len(bars),
        "sessions": len(bars.sessions),
        "first": bars.sessions[0] if bars.sessions else None,
        "last": bars.sessions[-1] if bars.sessions else None,
    }


def _row(detection: Detection, wins: Wins) -> dict[str, Any]:
    """One line of a table of alerters."""
    return {
        "capture": detection.capture.to_dict(),
        "false_positives": detection.false_positives.to_dict(),
        "alerts": len(detection.alerts),
        "wins": {**wins.rate.to_dict(), **wins.to_dict()},
    }


def _targets(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the live process was asked for, beside what it does; ``met`` None where it is not told here."""
    bar, peak = measured["bar_us"], measured["peak_rss_mb"]
    return [
        {
            "name": "From a bar to its alerts, P95",
            "target": "< 30 s",
            "measured": f"{bar['p95']:.1f} µs",
            "met": bar["p95"] < 30e6,
        },
        {
            "name": "From a bar to its alerts, P99",
            "target": "< 60 s",
            "measured": f"{bar['p99']:.1f} µs",
            "met": bar["p99"] < 60e6,
        },
        {
            "name": f"Peak memory over {measured['sessions']} sessions, a fresh process",
            "target": "< 50 MB",
            "measured": "not told by this system" if peak is None else f"{peak:.1f} MB",
            "met": None if peak is None else peak < 50,
        },
        {
            "name": "Alerts a minute of computing",
            "target": "> 100",
            "measured": f"{measured['alerts_per_min']:,.0f}",
            "met": measured["alerts_per_min"] > 100,
        },
        {
            "name": "10 clients at once",
            "target": "10",
            "measured": "measured at the alert server, not here",
            "met": None,
        },
    ]
