"""
### Detector · backtest

Says whether the **market detector** may be trusted: three gates (capture, false positives, wins) over a file of bars, behind
guards that end the run when the detector has seen the future. Nothing but files and the ledger is touched.

| step | what it does | touches |
|---|---|---|
| `load` | reads the bars: the form's file, else `COMPORTA_BARS`, else synthetic sessions (its log says so) | files |
| `quality` | gaps, duplicates, impossible prices, rolls, closed days | files |
| `run` | the candle loop over every bar, and five guards | files |
| `score`, `gates` | hindsight's truth, trades with costs, baselines and nulls, PASS / FAIL / INSUFFICIENT | files |
| `benchmark` | the live part in a fresh process: time a bar, peak memory | files |
| `report` | one interactive page under `archives/<date>/` | files, the ledger |
| `tune`, `choose`, `run_again` | only on FAIL: walk-forward over the grid, a second page with what it chose | files, the ledger |
| `detector_verdict` | unless all gates pass: people accept, adjust or re-architect | the ledger |
| `run_tests`, `check_types`, `check_coverage` | the detector's tests, `mypy --strict`, coverage > 80 % | files |
| `detector_signoff` | people sign off, on all of the above | the ledger |

**Starts** on business days at 22:00 UTC, after the market has closed, or by hand with a file. The same from a terminal:
`comporta backtest FILE --tz America/Sao_Paulo`. What the gates mean is in `docs/detector.md`.

**When a task is red**: `load` names the line of the file that it refuses. `run` is red when a guard failed: its log says which, and
no number of that run may be used. A check of the code that fails shows its last lines. After the cause is mended, clear the
task; what came before it is kept.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import Param, dag

from comporta.orchestration import detector


@dag(
    dag_id="detector_backtest",
    dag_display_name="Detector · backtest",
    schedule="0 22 * * 1-5",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=4,
    tags=["comporta", "detector"],
    doc_md=__doc__,
    default_args={"retries": 0, "priority_weight": 0, "weight_rule": "absolute"},
    params={
        "file": Param(
            None,
            type=["null", "string"],
            title="File of bars",
            description="MetaTrader 5 or Profit export, CSV or Parquet; from the project's folder. Empty: COMPORTA_BARS.",
        ),
        "tz": Param(
            None,
            type=["null", "string"],
            title="Time zone of its times",
            description="Such as America/Sao_Paulo, where the file states none.",
        ),
        "symbol": Param(None, type=["null", "string"], title="Symbol"),
        "adjustment": Param(
            None,
            type=["null", "string"],
            enum=[None, "none", "proportional", "difference"],
            title="Adjustment at rolls",
            description="How the file's prices were adjusted.",
        ),
        "synthetic": Param(
            120,
            type="integer",
            minimum=1,
            maximum=2000,
            title="Synthetic sessions",
            description="Only where neither the form nor COMPORTA_BARS names a file.",
        ),
    },
)
def detector_backtest():
    decide = detector.decide()
    (
        detector.load()
        >> detector.quality()
        >> detector.run()
        >> detector.score()
        >> detector.gates()
        >> detector.benchmark()
        >> detector.report()
        >> decide
    )
    verdict = detector.ask_verdict()
    tune = detector.tune.expand(shard=list(range(detector.TUNE_TASKS)))
    decide >> tune >> detector.choose() >> detector.run_again() >> verdict
    decide >> verdict

    tests, types = detector.run_tests(), detector.check_types()
    [decide, verdict] >> tests >> detector.check_coverage() >> (checks := detector.record_checks())
    [decide, verdict] >> types >> checks
    checks >> detector.ask_sign_off()


detector_backtest()
