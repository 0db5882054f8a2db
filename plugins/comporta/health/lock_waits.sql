-- Purpose:     sessions on this database that have waited for a lock longer than a limit, and the longest wait in seconds.
-- Requires:    PostgreSQL 14 (pg_locks.waitstart); no privilege.
-- Locks:       none.
-- Transaction: no matter. Parameter: longer_than_ms.

select count(*), coalesce(max(extract(epoch from waiting.s)), 0)::double precision
  from (select l.pid, max(pg_catalog.clock_timestamp() - l.waitstart) as s
          from pg_catalog.pg_locks l
          join pg_catalog.pg_stat_activity a using (pid)
         where not l.granted and a.datname = pg_catalog.current_database()
         group by l.pid) as waiting
 where waiting.s > pg_catalog.make_interval(secs => %(longer_than_ms)s / 1000.0)
