-- Purpose:     how far each standby and each slot is behind, in bytes of WAL and, where the server knows it, in seconds.
-- Requires:    pg_monitor (pg_read_all_stats) to see standbys: without it, the first row says that they are hidden.
-- Locks:       none.
-- Transaction: no matter.

with here as (
    select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() else pg_catalog.pg_current_wal_lsn() end as lsn
)
select null::text as who, null::numeric as bytes, null::double precision as seconds,
       not pg_catalog.pg_has_role('pg_read_all_stats', 'usage') as hidden
union all
-- One that has replayed everything has no lag to measure: the server then gives null.
select coalesce(nullif(r.application_name, ''), 'pid ' || r.pid), greatest(pg_catalog.pg_wal_lsn_diff(here.lsn, r.replay_lsn), 0),
       extract(epoch from r.replay_lag)::double precision, false
  from pg_catalog.pg_stat_replication r, here
 where not exists (select from pg_catalog.pg_replication_slots s where s.active_pid = r.pid)
union all
select s.slot_name, greatest(pg_catalog.pg_wal_lsn_diff(here.lsn, coalesce(r.replay_lsn, s.confirmed_flush_lsn, s.restart_lsn)), 0),
       extract(epoch from r.replay_lag)::double precision, false
  from pg_catalog.pg_replication_slots s
 cross join here
  left join pg_catalog.pg_stat_replication r on r.pid = s.active_pid
 where not s.temporary
