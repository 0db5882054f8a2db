-- Purpose:     what has to be read by name in a second step: sequences (schema, name, whether readable) and pg_cron's job table.
-- Requires:    search_path = pg_catalog.
-- Locks:       none.
-- Transaction: yes, read only.

select 'sequence' as kind, n.nspname::text as schema, c.relname::text as name, has_sequence_privilege(c.oid, 'select') as readable, s.seqincrement
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_sequence s on s.seqrelid = c.oid
where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
  and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
union all
select 'cron', n.nspname::text, c.relname::text, has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'), null
from pg_extension e
join pg_namespace n on n.nspname = 'cron'
join pg_class c on c.relnamespace = n.oid and c.relname = 'job'
where e.extname = 'pg_cron';
