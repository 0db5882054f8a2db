-- Purpose:     whether a table is there, and its one column of type date: when its rows are true, by which it is partitioned or may be.
-- Requires:    parameter table.
-- Locks:       none that matter.
-- Transaction: no matter.

select pg_catalog.to_regclass(%(table)s) is not null,
       (select case when count(*) = 1 then min(a.attname::text) end
          from pg_catalog.pg_attribute a
         where a.attrelid = pg_catalog.to_regclass(%(table)s) and a.atttypid = 'date'::regtype and a.attnum > 0 and not a.attisdropped)
