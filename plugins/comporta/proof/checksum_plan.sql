-- Purpose:     for each relation to be summed: its name, where to read, and one expression a column whose hash is exact, sorted by column name.
-- Requires:    search_path = pg_catalog. Parameter names: text array of relations, or null for every ordinary and partitioned table.
-- Locks:       none.
-- Transaction: yes, read only.
--
-- The server's hash of bigint and timestamps folds 64 bits into 32, that of numeric and float calls unlike texts equal, and
-- geometry has a 32-bit one only: those go through their wire form, which is exact and cheaper than text.
-- The wire form of a whole row would carry type OIDs, which differ from database to database.

with wanted as (
    select to_regclass(w.name) as oid, w.name as asked
    from unnest(%(names)s::text[]) as w (name)
    union all
    select c.oid, null
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where %(names)s::text[] is null
      and c.relkind in ('r', 'p') and not c.relispartition
      and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
)
select w.asked,
       case when c.oid is not null then format('%%I.%%I', n.nspname, c.relname) end as name,
       case when c.oid is not null then case when c.relkind = 'r' then 'only ' else '' end || format('%%I.%%I', n.nspname, c.relname) end as source,
       x.columns,
       x.expressions
from wanted w
left join pg_class c on c.oid = w.oid
left join pg_namespace n on n.oid = c.relnamespace
left join lateral (
    select array_agg(a.attname::text order by a.attname) as columns,
           array_agg(
               case
                   when t.typname in ('int2', 'int4', 'oid', 'bool', 'date', 'uuid', 'bytea') and t.typnamespace = 'pg_catalog'::regnamespace
                       then format('t.%%I', a.attname)
                   when t.typname in ('int8', 'float4', 'float8', 'time', 'timetz')
                       then format('%%ssend(t.%%I)', case when t.typname ~ '^time' then t.typname || '_' else t.typname end, a.attname)
                   when t.typname in ('timestamp', 'timestamptz', 'interval', 'numeric') then format('%%s_send(t.%%I)', t.typname, a.attname)
                   when t.typname in ('text', 'varchar') then format('t.%%I collate "C"', a.attname)
                   when t.typname in ('geometry', 'geography') then format('t.%%I::bytea', a.attname)
                   else format('t.%%I::text collate "C"', a.attname)
               end order by a.attname) as expressions
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
) x on true
order by 2;
