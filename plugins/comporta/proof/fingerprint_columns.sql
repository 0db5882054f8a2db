-- Purpose:     facts of columns: type with typmod, default, identity, storage, statistics target, options, place among the living columns.
-- Requires:    search_path = pg_catalog, so that every other name comes out qualified.
-- Locks:       none.
-- Transaction: yes, read only.
--
-- The place counts living columns only: a dropped column leaves a gap in attnum that nobody can see from outside.

with col as (
    select a.*, c.relkind, format('%I.%I.%I', n.nspname, c.relname, a.attname) as name,
           row_number() over (partition by a.attrelid order by a.attnum) as place
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    join pg_namespace n on n.oid = c.relnamespace
    where a.attnum > 0 and not a.attisdropped
      and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
      and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
      and not exists (select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.objsubid = 0 and d.deptype = 'e')
      and not exists (select from pg_depend d
                      where d.classid = 'pg_type'::regclass and d.objid = c.reltype and d.deptype = 'e')
)
select 'column' as kind, c.name, p.property, p.value
from col c
left join pg_attrdef d on d.adrelid = c.attrelid and d.adnum = c.attnum
left join pg_type t on t.oid = c.atttypid
cross join lateral (values
    ('type', format_type(c.atttypid, c.atttypmod)),
    ('place', c.place::text),
    ('not null', case when c.attnotnull then 'yes' end),
    ('default', case when c.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end),
    ('generated as', case when c.attgenerated <> '' then pg_get_expr(d.adbin, d.adrelid) end),
    ('identity', case c.attidentity when 'a' then 'always' when 'd' then 'by default' end),
    ('storage', case when c.relkind in ('r', 'p', 'm')
                     then case c.attstorage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end end),
    ('compression', case c.attcompression when 'p' then 'pglz' when 'l' then 'lz4' end),
    ('statistics target', case when c.attstattarget >= 0 then c.attstattarget::text end),
    ('collation', case when c.attcollation <> t.typcollation then c.attcollation::regcollation::text end),
    ('options', array_to_string(c.attoptions, ', ')),
    ('foreign options', array_to_string(c.attfdwoptions, ', ')),
    ('inherited', case when c.attinhcount > 0 then case when c.attislocal then 'merged' else 'yes' end end)
) as p (property, value)
where p.value is not null;
