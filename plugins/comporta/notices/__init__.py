"""Notices: what the ledger tells, as mail to the people whom the escalation matrix names. Nothing depends on it."""
