-- Purpose:     sizes and limits of the server, and what it has in use.
-- Requires:    nothing; pg_read_all_stats or CONNECT for the sizes of other databases.
-- Locks:       none.
-- Transaction: no matter.

select pg_catalog.pg_database_size(pg_catalog.current_database()) as database_bytes,
       (select sum(pg_catalog.pg_database_size(d.oid))::bigint from pg_catalog.pg_database d
         where pg_catalog.pg_has_role('pg_read_all_stats', 'usage') or pg_catalog.has_database_privilege(d.oid, 'connect')) as cluster_bytes,
       (select coalesce(sum(s.numbackends), 0)::integer from pg_catalog.pg_stat_database s) as connections,
       pg_catalog.current_setting('max_connections')::integer as max_connections,
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')) as shared_buffers_bytes,
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size')) as max_wal_bytes,
       (select w.wal_bytes / nullif(extract(epoch from pg_catalog.clock_timestamp() - w.stats_reset), 0)
          from pg_catalog.pg_stat_wal w)::double precision as wal_bytes_per_s,
       pg_catalog.clock_timestamp() as at
