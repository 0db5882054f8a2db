-- Purpose:     every relation outside the system catalogues with its file node, validity, and what it belongs to.
-- Requires:    nothing.
-- Locks:       ACCESS SHARE on catalogues.
-- Transaction: yes.

select c.oid::bigint as oid, n.nspname as schema, c.relname as name, c.relkind::text as kind,
       c.relfilenode::bigint as filenode, i.indisvalid as valid,
       coalesce(i.indrelid, t.oid, 0)::bigint as belongs_to,
       coalesce(h.inhparent, 0)::bigint as parent
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join pg_catalog.pg_index i on i.indexrelid = c.oid
  left join pg_catalog.pg_class t on t.reltoastrelid = c.oid and c.relkind = 't'
  left join pg_catalog.pg_inherits h on h.inhrelid = c.oid
 where n.nspname not in ('pg_catalog', 'information_schema')
   and c.relkind in ('r', 'p', 'i', 'I', 'm', 't', 'v', 'S', 'f')
