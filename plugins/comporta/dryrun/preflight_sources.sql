-- Purpose:     what has to be looked into by name afterwards: default partitions, geometry columns, pg_stat_statements.
-- Requires:    search_path = pg_catalog. Parameter tables: text array of the release's tables, or null for all.
-- Locks:       none.
-- Transaction: yes, read only.

with relation as (
    select c.oid, c.relname, n.nspname, c.relkind, c.relpartbound, c.relispartition, greatest(c.reltuples, 0) as estimate,
           %(tables)s::text[] is null or format('%%I.%%I', n.nspname, c.relname) = any (%(tables)s::text[])
           or exists (select from pg_partition_ancestors(c.oid) as up (relid)
                      where up.relid = any (select to_regclass(w.name) from unnest(%(tables)s::text[]) as w (name))) as wanted
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
)
select 'default partition' as kind, r.nspname::text as schema, r.relname::text as name, ''::text as detail, ''::text as place, 0::float8 as percent
from relation r
where r.relispartition and r.wanted and pg_get_expr(r.relpartbound, r.oid) = 'DEFAULT'
union all
select 'geometry', r.nspname::text, r.relname::text, a.attname::text, n.nspname::text,
       least(100, 100 * %(sample)s / greatest(1, r.estimate))::float8
from relation r
join pg_attribute a on a.attrelid = r.oid and not a.attisdropped
join pg_type t on t.oid = a.atttypid and t.typname = 'geometry'
join pg_namespace n on n.oid = t.typnamespace
where r.relkind = 'r' and r.wanted
union all
select 'statements', n.nspname::text, 'pg_stat_statements', '', '', 0
from pg_extension e
join pg_namespace n on n.oid = e.extnamespace
where e.extname = 'pg_stat_statements';
