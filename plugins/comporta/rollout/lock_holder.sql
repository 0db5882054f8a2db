-- Purpose:     who holds the claim on changing this database: one row, or none when it was just given back.
-- Locks:       none.
-- Transaction: yes, read only.
select format('pid %%s (%%s, since %%s UTC)', a.pid, coalesce(nullif(a.application_name, ''), 'no name'),
              to_char(a.backend_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'))
  from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.granted and l.objsubid = 2
   and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
   and l.classid = (pg_catalog.hashtext(%(room)s)::bigint & 4294967295)::oid
   and l.objid = (pg_catalog.hashtext(%(what)s)::bigint & 4294967295)::oid
 limit 1;
