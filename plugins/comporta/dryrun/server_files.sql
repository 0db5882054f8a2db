-- Purpose:     bytes of temporary files and of the WAL folder of the whole server.
-- Requires:    pg_monitor.
-- Locks:       none.
-- Transaction: no matter.

select (select coalesce(sum(t.size), 0) from pg_catalog.pg_ls_tmpdir() t)::bigint,
       (select coalesce(sum(w.size), 0) from pg_catalog.pg_ls_waldir() w)::bigint
