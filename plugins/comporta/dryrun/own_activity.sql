-- Purpose:     WAL and temporary bytes that the statements of given roles wrote, so that concurrent traffic is left out.
-- Requires:    pg_stat_statements on the search_path of the session; parameter roles (text[]).
-- Locks:       none on tables.
-- Transaction: no matter.

select coalesce(sum(s.wal_bytes), 0)::bigint as wal_bytes,
       (coalesce(sum(s.temp_blks_written), 0) * pg_catalog.current_setting('block_size')::bigint)::bigint as temp_bytes
  from pg_stat_statements(false) s
 where s.toplevel
   and s.dbid = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
   and s.userid in (select r.oid from pg_catalog.pg_roles r where r.rolname = any (%(roles)s))
