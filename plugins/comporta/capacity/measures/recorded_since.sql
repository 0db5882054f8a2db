-- Purpose:     where pg_stat_statements is installed, since when it counts (by the server's clock), and whether this sign-in sees
--              what other roles sent; no row where it is not installed.
-- Requires:    nothing.
-- Locks:       none.
-- Transaction: no matter.

select n.nspname, pg_catalog.pg_has_role('pg_read_all_stats', 'usage'), pg_catalog.clock_timestamp()
  from pg_catalog.pg_extension e
  join pg_catalog.pg_namespace n on n.oid = e.extnamespace
 where e.extname = 'pg_stat_statements'
