-- Purpose:     where a restore from the archive would have to stop to be just before what comes now, and what was archived last.
-- Requires:    pg_monitor for the archiver; what may not be seen is null.
-- Locks:       none.
-- Transaction: yes, read only.
select case when pg_catalog.pg_is_in_recovery() then null else pg_catalog.pg_current_wal_lsn()::text end as lsn,
       (select timeline_id from pg_catalog.pg_control_checkpoint()) as timeline,
       pg_catalog.clock_timestamp() as at,
       pg_catalog.current_setting('archive_mode') as archive_mode,
       (select last_archived_wal from pg_catalog.pg_stat_archiver) as last_archived,
       (select last_archived_time from pg_catalog.pg_stat_archiver) as last_archived_at;
