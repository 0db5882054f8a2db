-- Purpose:     the partitioned table behind each name, and how many leaves all of them have.
-- Requires:    parameter relations (oid[]).
-- Locks:       ACCESS SHARE on the partitions.
-- Transaction: no matter.

select c.oid, n.nspname, c.relname, (select count(*) from pg_catalog.pg_partition_tree(c.oid) t where t.isleaf)
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'p' and c.oid = any (%(relations)s::oid[])
 order by 1
