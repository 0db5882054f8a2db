"""The rollout of a release in production, its rollbacks, and the report of both."""
