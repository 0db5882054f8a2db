"""The assets that start one stage after another."""

from __future__ import annotations

from airflow.sdk import Asset

RELEASE = Asset(name="release", uri="comporta://release")
DRY_RUN = Asset(name="dry_run", uri="comporta://dry_run")
ROLLBACK_PROOFS = Asset(name="rollback_proofs", uri="comporta://rollback_proofs")
CAPACITY_PLAN = Asset(name="capacity_plan", uri="comporta://capacity_plan")
DAILY_SYNC = Asset(name="daily_sync", uri="comporta://daily_sync")
