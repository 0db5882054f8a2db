-- Purpose:     the statements that applications sent to this database: calls, time and WAL of each text.
-- Requires:    pg_stat_statements 1.10 in schema {schema}; pg_read_all_stats, or texts of other roles are hidden.
-- Locks:       none on tables.
-- Transaction: no matter.
--
-- What this sign-in itself and superusers sent is of those who look after the server: dumps, clones, change scripts, our looks.

select s.query,
       sum(s.calls)::bigint as calls,
       sum(s.total_exec_time + s.total_plan_time)::double precision as total_ms,
       sum(s.wal_bytes)::bigint as wal_bytes
  from {schema}.pg_stat_statements s
  join pg_catalog.pg_database d on d.oid = s.dbid and d.datname = pg_catalog.current_database()
  join pg_catalog.pg_roles r on r.oid = s.userid and not r.rolsuper and r.rolname <> session_user
 where s.toplevel
 group by s.query
