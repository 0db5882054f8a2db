-- Purpose:     how far each standby and each slot is behind, in bytes of WAL (null: the server does not say) and, for standbys, in seconds.
-- Requires:    pg_monitor (pg_read_all_stats) to see standbys: without it, the first row says that they are hidden.
-- Locks:       none.
-- Transaction: no matter.
--
-- A standby that has replayed everything has no lag in time to measure: the server then gives null. Base backups are not behind.

with here as (
    select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() else pg_catalog.pg_current_wal_lsn() end as lsn
), standing as (
    select coalesce(nullif(r.application_name, ''), 'pid ' || r.pid) as who, coalesce(r.replay_lsn, r.flush_lsn) as lsn,
           extract(epoch from r.replay_lag)::double precision as seconds
      from pg_catalog.pg_stat_replication r
     where r.state <> 'backup'
       and not exists (select from pg_catalog.pg_replication_slots s where s.active_pid = r.pid and s.temporary)
    union all
    select s.slot_name, coalesce(s.confirmed_flush_lsn, s.restart_lsn), null
      from pg_catalog.pg_replication_slots s
     where not s.temporary
)
select null::text as who, null::double precision as bytes, null::double precision as seconds,
       not pg_catalog.pg_has_role('pg_read_all_stats', 'usage') as hidden
union all
select standing.who, case when pg_catalog.pg_wal_lsn_diff(here.lsn, standing.lsn) < 0 then 0 else pg_catalog.pg_wal_lsn_diff(here.lsn, standing.lsn) end,
       standing.seconds, false
  from standing, here
