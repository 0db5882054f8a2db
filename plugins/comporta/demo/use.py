"""Some seconds of people's use of a demo catalogue that was just loaded: without it, the server has no query mix to plan with."""

from __future__ import annotations

import time
from typing import Final

import psycopg

from comporta.demo.traffic import Traffic
from comporta.errors import UnreachableServer
from comporta.postgres.queries import load

SECONDS: Final = 8.0
READS_PER_S: Final = 60.0
WRITES_PER_S: Final = 60.0
SEARCH_SHARE: Final = 0.015  # of the reads: rare and long, and still seen in so short a time whatever chance says
SEED: Final = 6


def record_use(dsn: str, *, seconds: float = SECONDS, seed: int = SEED) -> int:
    """Let readers and editors use the catalogue, and pg_stat_statements count nothing but them; returns their operations.

    ``dsn`` must be a superuser's, of a database of ours: its rows change, and what the server had recorded is forgotten.
    TrafficFailed when there are too few rows to work on, UnreachableServer when there is no server.
    """
    try:
        with psycopg.connect(
            dsn, autocommit=True, connect_timeout=10, application_name="comporta demo loader"
        ) as connection:
            connection.execute(load("comporta.demo", "use_forget.sql").encode())
    except psycopg.OperationalError as error:
        raise UnreachableServer(
            f"The demo catalogue's server does not let us in: {str(error).strip()}",
            remedy="Check that it runs, and the sign-in.",
        ) from error
    with Traffic(dsn, READS_PER_S, WRITES_PER_S, seed, search_share=SEARCH_SHARE, drain_s=10.0) as traffic:
        time.sleep(seconds)
        return len(traffic.stop().operations)
