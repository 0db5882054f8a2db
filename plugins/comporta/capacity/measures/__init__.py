"""What STAGE 4 reads from servers: the target's history, limits and recorded load; the clone's sizes, refreshes and plans."""
