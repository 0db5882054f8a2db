-- Purpose:     every grant, one row a privilege and grantee, with grant option; default privileges; comments and security labels of all objects.
-- Requires:    search_path = pg_catalog, so that every other name comes out qualified.
-- Locks:       none.
-- Transaction: yes, read only.
--
-- A missing ACL means the built-in default: it is written out, so that "never granted" and "granted, then revoked" compare equal.
-- For objects of extensions and of the server only grants that differ from those they came with (pg_init_privs) are shown.

with space as (
    select oid, nspname from pg_namespace
    where nspname !~ '^pg_' and nspname not in ('information_schema', 'comporta')
),
member as (
    select classid, objid from pg_depend where deptype = 'e' and refclassid = 'pg_extension'::regclass
),
guarded as (
    select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
                          when 'S' then 'sequence' else 'table' end as kind,
           format('%I.%I', n.nspname, c.relname) as name, c.relowner as owner,
           coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)) as acl
    from pg_class c
    join space n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      and not exists (select from member m where m.classid = 'pg_class'::regclass and m.objid = c.oid)
    union all
    select 'column', format('%I.%I.%I', n.nspname, c.relname, a.attname), c.relowner, a.attacl
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    join space n on n.oid = c.relnamespace
    where a.attacl is not null and not a.attisdropped
    union all
    select case f.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
           f.oid::regprocedure::text, f.proowner, coalesce(f.proacl, acldefault('f', f.proowner))
    from pg_proc f
    join space n on n.oid = f.pronamespace
    where not exists (select from member m where m.classid = 'pg_proc'::regclass and m.objid = f.oid)
    union all
    select case t.typtype when 'd' then 'domain' else 'type' end, format_type(t.oid, null), t.typowner,
           coalesce(t.typacl, acldefault('T', t.typowner))
    from pg_type t
    join space n on n.oid = t.typnamespace
    where t.typtype in ('d', 'e', 'r', 'c', 'b')
      and not exists (select from pg_type e where e.typarray = t.oid)
      and (t.typacl is not null or not exists (select from pg_class c where c.oid = t.typrelid and c.relkind <> 'c'))
      and not exists (select from member m where m.classid = 'pg_type'::regclass and m.objid = t.oid)
    union all
    select 'schema', n.nspname, x.nspowner, coalesce(x.nspacl, acldefault('n', x.nspowner))
    from pg_namespace x
    join space n using (oid)
    union all
    select 'language', l.lanname, l.lanowner, l.lanacl
    from pg_language l
    where l.lanacl is not null
    union all
    select 'foreign-data wrapper', w.fdwname, w.fdwowner, w.fdwacl
    from pg_foreign_data_wrapper w
    where w.fdwacl is not null
    union all
    select 'server', s.srvname, s.srvowner, coalesce(s.srvacl, acldefault('S', s.srvowner))
    from pg_foreign_server s
    union all
    select 'database', 'this database', d.datdba, coalesce(d.datacl, acldefault('d', d.datdba))
    from pg_database d
    where d.datname = current_database()
),
came_with as (
    select 'pg_class'::regclass::oid as classid, c.oid, c.oid::regclass::text as name, c.relacl as acl,
           case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind,
           acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner) as built_in
    from pg_class c
    where c.relacl is not null
      and (c.relnamespace = 'pg_catalog'::regnamespace or exists (select from member m where m.classid = 'pg_class'::regclass and m.objid = c.oid))
    union all
    select 'pg_proc'::regclass, f.oid, f.oid::regprocedure::text, f.proacl, 'function', acldefault('f', f.proowner)
    from pg_proc f
    where f.proacl is not null
      and (f.pronamespace = 'pg_catalog'::regnamespace or exists (select from member m where m.classid = 'pg_proc'::regclass and m.objid = f.oid))
    union all
    select 'pg_type'::regclass, t.oid, format_type(t.oid, null), t.typacl, 'type', acldefault('T', t.typowner)
    from pg_type t
    where t.typacl is not null
      and (t.typnamespace = 'pg_catalog'::regnamespace or exists (select from member m where m.classid = 'pg_type'::regclass and m.objid = t.oid))
),
changed as (
    select w.kind, w.name, w.acl, coalesce(i.initprivs, w.built_in) as before
    from came_with w
    left join pg_init_privs i on i.classoid = w.classid and i.objoid = w.oid and i.objsubid = 0
    where w.acl is distinct from coalesce(i.initprivs, w.built_in)
)
select g.kind, g.name,
       format('grant %s to %s%s', e.privilege_type, case when e.grantee = 0 then 'public' else pg_get_userbyid(e.grantee)::text end,
              case when e.grantor <> g.owner then ' by ' || pg_get_userbyid(e.grantor) else '' end) as property,
       case when e.is_grantable then 'with grant option' else 'present' end as value
from guarded g
cross join lateral aclexplode(g.acl) e
union all
select c.kind, c.name,
       format('grant %s to %s', e.privilege_type, case when e.grantee = 0 then 'public' else pg_get_userbyid(e.grantee)::text end),
       case when not e.now then 'revoked' when e.is_grantable then 'with grant option' else 'present' end
from changed c
cross join lateral (
    select a.grantee, a.privilege_type, a.is_grantable, true as now
    from aclexplode(c.acl) a
    where not exists (select from aclexplode(c.before) b
                      where (b.grantee, b.privilege_type, b.is_grantable) = (a.grantee, a.privilege_type, a.is_grantable))
    union all
    select b.grantee, b.privilege_type, b.is_grantable, false
    from aclexplode(c.before) b
    where not exists (select from aclexplode(c.acl) a where (a.grantee, a.privilege_type) = (b.grantee, b.privilege_type))
) e
union all
select 'default privileges',
       format('of %s%s on %s', pg_get_userbyid(d.defaclrole), case when d.defaclnamespace <> 0 then ' in schema ' || d.defaclnamespace::regnamespace else '' end,
              case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types' else 'schemas' end),
       format('grant %s to %s', e.privilege_type, case when e.grantee = 0 then 'public' else pg_get_userbyid(e.grantee)::text end),
       case when e.is_grantable then 'with grant option' else 'present' end
from pg_default_acl d
cross join lateral aclexplode(d.defaclacl) e
where d.defaclnamespace = 0 or d.defaclnamespace in (select oid from space)
union all
select 'default privileges',
       format('of %s on %s', pg_get_userbyid(d.defaclrole),
              case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types' else 'schemas' end),
       'recorded', 'yes'
from pg_default_acl d
where d.defaclnamespace = 0
union all
select case i.type when 'table column' then 'column' when 'view column' then 'column' when 'materialized view column' then 'column'
                   when 'foreign table column' then 'column' when 'table constraint' then 'constraint' when 'domain constraint' then 'constraint'
                   when 'composite type' then 'type' else i.type end,
       -- The name that every other fact of a function goes by.
       case when d.classoid = 'pg_proc'::regclass then d.objoid::regprocedure::text else i.identity end, 'comment', d.description
from pg_description d
cross join lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) i
where (d.objoid >= 16384 or (d.classoid = 'pg_namespace'::regclass and d.objoid = (select oid from pg_namespace where nspname = 'public')))
  and not exists (select from member m where m.classid = d.classoid and m.objid = d.objoid)
  and i.schema is distinct from 'comporta'
  and not (i.type = 'schema' and i.identity = 'comporta')
  and i.identity !~ ' on comporta\.'
union all
select i.type, i.identity, 'security label of ' || l.provider, l.label
from pg_seclabel l
cross join lateral pg_identify_object(l.classoid, l.objoid, l.objsubid) i
where not exists (select from member m where m.classid = l.classoid and m.objid = l.objoid);
