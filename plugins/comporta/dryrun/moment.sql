-- Purpose:     server time (epoch seconds), WAL position, lock time-out in ms, role and process of this session.
-- Requires:    nothing; any role may read it.
-- Locks:       ACCESS SHARE on catalogues.
-- Transaction: no matter.

select pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) as at,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::bigint as lsn,
       (select s.setting::integer from pg_catalog.pg_settings s where s.name = 'lock_timeout') as lock_timeout_ms,
       current_user::pg_catalog.text as role,
       pg_catalog.pg_backend_pid() as pid
