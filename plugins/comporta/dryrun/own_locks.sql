-- Purpose:     what the running transaction holds just before it ends: server time, WAL position, role, locks with the file node of each relation.
-- Requires:    nothing; any role may read it.
-- Locks:       ACCESS SHARE on catalogues.
-- Transaction: yes, inside the one that is looked at.

select pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) as at,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::bigint as lsn,
       coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
           'oid', l.relation::bigint, 'mode', l.mode, 'vxid', l.virtualtransaction,
           'name', case when c.oid is not null then pg_catalog.format('%I.%I', n.nspname, c.relname) end,
           'filenode', c.relfilenode::bigint)) filter (where l.pid is not null), '[]') as locks
  from (select 1) one
  left join pg_catalog.pg_locks l
         on l.pid = pg_catalog.pg_backend_pid() and l.locktype = 'relation' and l.granted
        and l.mode in ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock', 'ShareUpdateExclusiveLock')
        and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
  left join pg_catalog.pg_class c on c.oid = l.relation
  left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
