-- Purpose:     connections in use, and how many there may be.
-- Requires:    nothing.
-- Locks:       none.
-- Transaction: no matter.

select coalesce(sum(d.numbackends), 0)::integer, pg_catalog.current_setting('max_connections')::integer from pg_catalog.pg_stat_database d
