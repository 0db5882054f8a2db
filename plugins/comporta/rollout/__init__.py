"""Rollout in production: apply one change at a time under breakers, and bring any of them back."""
