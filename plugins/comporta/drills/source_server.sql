-- What a physical copy of this server must know beforehand, in one row.
select current_setting('server_version_num')::int / 10000 as major,
       current_setting('wal_level') as wal_level,
       current_setting('max_wal_senders')::int - (select count(*)::int from pg_stat_replication) as free_wal_senders,
       (select rolreplication or rolsuper from pg_roles where rolname = current_user) as may_replicate,
       current_user::text as signed_in_as,
       (select rolname::text from pg_roles where rolsuper and rolcanlogin order by oid limit 1) as superuser,
       (select coalesce(sum(pg_database_size(oid)), 0)::bigint
          from pg_database where has_database_privilege(oid, 'connect')) as bytes,
       (select coalesce(json_object_agg(name, setting), '{}')
          from pg_settings
         where name in ('max_connections', 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions',
                        'max_locks_per_transaction', 'wal_level', 'track_commit_timestamp', 'shared_preload_libraries',
                        'fsync', 'full_page_writes')
       ) as settings,
       (select coalesce(json_object_agg(oid, pg_tablespace_location(oid)), '{}')
          from pg_tablespace where pg_tablespace_location(oid) <> '') as tablespaces
