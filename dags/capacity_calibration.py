"""
### STAGE 4: the forecast against production

Holds the last forecast that was made before the rollout against **what production then shows**: rows, bytes, growth,
latency, refresh, connections. The error stands on the first page of the next capacity report.

| step | what it does | touches |
|---|---|---|
| `compare_with_production` | compares, records `calibrated`; skipped when no look is due | reads the target, writes the ledger |

**Starts** daily at 06:00 UTC. A look is due when the rollout has ended, then after a week, after a month, and every quarter:
growth cannot be wrong on day one. **Skipped** (pink) means that nothing is rolled out yet, that there was no forecast before
the rollout, or that the next look is due later; the task's log says which. By hand: `comporta capacity calibrate`.

**When the task is red**: the target or the control database was away for longer than its retries last. Clear it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from comporta.orchestration import calibration


@dag(
    dag_id="capacity_calibration",
    dag_display_name="STAGE 4 · forecast against production",
    schedule="0 6 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["comporta", "stage 4", "production"],
    doc_md=__doc__,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5), "priority_weight": 0, "weight_rule": "absolute"},
)
def capacity_calibration():
    calibration.compare_with_production()


capacity_calibration()
