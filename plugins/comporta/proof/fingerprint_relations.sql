-- Purpose:     facts of tables, views, materialized views, foreign tables and sequences, one row a property.
-- Requires:    search_path = pg_catalog, so that every other name comes out qualified.
-- Locks:       ACCESS SHARE on what the views read, while their text is made.
-- Transaction: yes, read only.

with relation as (
    select c.*,
           case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
                          when 'S' then 'sequence' else 'table' end as kind,
           format('%I.%I', n.nspname, c.relname) as name
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
      and not exists (select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.objsubid = 0 and d.deptype = 'e')
)
select r.kind, r.name, p.property, p.value
from relation r
left join pg_am a on a.oid = r.relam
left join pg_tablespace t on t.oid = r.reltablespace
cross join lateral (values
    ('owner', pg_get_userbyid(r.relowner)::text),
    ('partition key', case when r.relkind = 'p' then pg_get_partkeydef(r.oid) end),
    ('partition bound', case when r.relispartition then pg_get_expr(r.relpartbound, r.oid) end),
    ('persistence', case r.relpersistence when 'p' then 'logged' when 'u' then 'unlogged' else 'temporary' end),
    ('access method', a.amname::text),
    ('tablespace', t.spcname::text),
    ('row level security', case when r.relkind in ('r', 'p') then case when r.relrowsecurity then 'enabled' else 'disabled' end end),
    ('row level security for the owner', case when r.relforcerowsecurity then 'forced' end),
    ('replica identity', case when r.relkind in ('r', 'p', 'm')
                              then case r.relreplident when 'd' then 'default' when 'n' then 'nothing' when 'f' then 'full' else 'index' end end),
    ('populated', case when r.relkind = 'm' then case when r.relispopulated then 'yes' else 'no' end end),
    ('definition', case when r.relkind in ('v', 'm') then pg_get_viewdef(r.oid) end),
    ('row type', case when r.reloftype <> 0 then format_type(r.reloftype, null) end)
) as p (property, value)
where p.value is not null
union all
select r.kind, r.name, 'option ' || o.option_name, coalesce(o.option_value, '')
from relation r cross join lateral pg_options_to_table(r.reloptions) o
union all
select r.kind, r.name, 'toast option ' || o.option_name, coalesce(o.option_value, '')
from relation r
join pg_class toast on toast.oid = r.reltoastrelid
cross join lateral pg_options_to_table(toast.reloptions) o
union all
select r.kind, r.name, 'inherits from ' || i.inhparent::regclass::text,
       case when i.inhdetachpending then 'detach pending' else 'present' end
from relation r
join pg_inherits i on i.inhrelid = r.oid
union all
select distinct r.kind, r.name, 'reads ' || d.refobjid::regclass::text, 'present'
from relation r
join pg_rewrite w on w.ev_class = r.oid and w.rulename = '_RETURN'
join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
                and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.oid
union all
select r.kind, r.name, format('referenced by %I on %s', k.conname, k.conrelid::regclass), 'present'
from relation r
join pg_constraint k on k.confrelid = r.oid and k.contype = 'f'
union all
select r.kind, r.name, p.property, p.value
from relation r
join pg_sequence s on s.seqrelid = r.oid
cross join lateral (values
    ('type', format_type(s.seqtypid, null)),
    ('start', s.seqstart::text),
    ('increment', s.seqincrement::text),
    ('minimum', s.seqmin::text),
    ('maximum', s.seqmax::text),
    ('cache', s.seqcache::text),
    ('cycle', case when s.seqcycle then 'yes' else 'no' end)
) as p (property, value)
union all
select r.kind, r.name, 'owned by',
       format('%s.%I%s', d.refobjid::regclass, a.attname, case d.deptype when 'i' then ' as identity' else '' end)
from relation r
join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
                and d.refobjsubid > 0 and d.deptype in ('a', 'i')
join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where r.relkind = 'S'
union all
select r.kind, r.name, p.property, p.value
from relation r
join pg_foreign_table f on f.ftrelid = r.oid
join pg_foreign_server s on s.oid = f.ftserver
cross join lateral (values ('server', s.srvname::text), ('foreign options', array_to_string(f.ftoptions, ', '))) as p (property, value)
where p.value is not null;
