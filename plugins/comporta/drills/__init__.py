"""Failover drills: each loses a component on purpose, brings it back as its runbook says, and takes the time."""
