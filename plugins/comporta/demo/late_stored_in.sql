-- Where a replication worker would write: the table that holds the rows, whatever stands under the name now.
select n.nspname, c.relname
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.oid = comporta.stored_in('catalogue.geometrias')
