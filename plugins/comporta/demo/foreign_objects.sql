-- Whatever a person may have put here: schemas, relations and routines that belong neither to the server, nor to an extension, nor to comporta.
with mine as (
    select n.oid, n.nspname
    from pg_namespace n
    where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
), members as (
    select classid, objid from pg_depend where deptype = 'e'
)
select format('schema %I', m.nspname)
from mine m
where m.nspname <> 'public' and not exists (select from members where classid = 'pg_namespace'::regclass and objid = m.oid)
  and not exists (select from pg_extension e where e.extnamespace = m.oid)
union all
select format('%I.%I', m.nspname, c.relname)
from pg_class c
join mine m on m.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and not exists (select from members where classid = 'pg_class'::regclass and objid = c.oid)
union all
select format('%I.%I()', m.nspname, p.proname)
from pg_proc p
join mine m on m.oid = p.pronamespace
where not exists (select from members where classid = 'pg_proc'::regclass and objid = p.oid)
order by 1
