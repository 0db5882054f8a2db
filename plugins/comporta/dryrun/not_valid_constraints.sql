-- Purpose:     constraints that are not validated, as schema.table.constraint.
-- Requires:    nothing.
-- Locks:       ACCESS SHARE on catalogues.
-- Transaction: yes.

select pg_catalog.format('%I.%I.%I', n.nspname, c.relname, k.conname)
  from pg_catalog.pg_constraint k
  join pg_catalog.pg_class c on c.oid = k.conrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where not k.convalidated and n.nspname not in ('pg_catalog', 'information_schema', 'comporta')
 order by 1
