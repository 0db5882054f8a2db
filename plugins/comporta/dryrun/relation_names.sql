-- Purpose:     number and name of every relation.
-- Requires:    nothing.
-- Locks:       ACCESS SHARE on catalogues.
-- Transaction: yes.

select c.oid::bigint, pg_catalog.format('%I.%I', n.nspname, c.relname)
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
