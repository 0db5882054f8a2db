-- Purpose:     the last day up to which a table has partitions of its own: the highest upper bound, without the default partition.
-- Requires:    parameter relation (oid).
-- Locks:       none that matter.
-- Transaction: no matter.

select max((regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid), 'TO \(''(\d+-\d\d-\d\d)'))[1]::date)
  from pg_catalog.pg_inherits i
  join pg_catalog.pg_class c on c.oid = i.inhrelid
 where i.inhparent = %(relation)s
