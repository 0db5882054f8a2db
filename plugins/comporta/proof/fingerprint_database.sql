-- Purpose:     facts of the database itself: settings, schemas, extensions and their members, publications, subscriptions, event triggers,
--              foreign servers, languages, and the roles of the server.
-- Requires:    search_path = pg_catalog, so that every other name comes out qualified.
-- Locks:       none.
-- Transaction: yes, read only.
--
-- The database goes by "this database", so that a clone under another name compares equal.
-- Connection strings and user mapping options may hold passwords: digests only, or nothing.

with own_role as (
    select r.* from pg_roles r where r.rolname !~ '^pg_'
)
select 'database' as kind, 'this database' as name, p.property, p.value
from pg_database d
cross join lateral (values
    ('owner', pg_get_userbyid(d.datdba)::text),
    ('encoding', pg_encoding_to_char(d.encoding)::text),
    ('collation', concat_ws(', ', d.datlocprovider::text, d.datcollate::text, d.datctype::text)),
    ('connection limit', case when d.datconnlimit <> -1 then d.datconnlimit::text end),
    ('comment', shobj_description(d.oid, 'pg_database'))
) as p (property, value)
where d.datname = current_database() and p.value is not null
union all
select case when s.setrole = 0 then 'database' else 'role' end,
       case when s.setrole = 0 then 'this database' else pg_get_userbyid(s.setrole)::text end,
       'setting ' || split_part(c.item, '=', 1) || case when s.setrole <> 0 and s.setdatabase <> 0 then ' in this database' else '' end,
       substr(c.item, strpos(c.item, '=') + 1)
from pg_db_role_setting s
cross join lateral unnest(s.setconfig) as c (item)
where s.setdatabase = (select oid from pg_database where datname = current_database())
   or (s.setdatabase = 0 and s.setrole in (select oid from own_role))
union all
select 'role', m.rolname, p.property, p.value
from own_role m
cross join lateral (values
    ('attributes', concat_ws(', ', case when m.rolsuper then 'superuser' end, case when m.rolinherit then 'inherit' end,
        case when m.rolcreaterole then 'createrole' end, case when m.rolcreatedb then 'createdb' end, case when m.rolcanlogin then 'login' end,
        case when m.rolreplication then 'replication' end, case when m.rolbypassrls then 'bypassrls' end)),
    ('connection limit', case when m.rolconnlimit <> -1 then m.rolconnlimit::text end),
    ('valid until', m.rolvaliduntil::text)
) as p (property, value)
where p.value is not null
union all
select distinct on (m.rolname, x.member) 'role', m.rolname, 'member ' || pg_get_userbyid(x.member),
       case when bool_or(x.admin_option) over (partition by x.roleid, x.member) then 'with admin option' else 'present' end
from own_role m
join pg_auth_members x on x.roleid = m.oid
union all
select 'schema', n.nspname, 'owner', pg_get_userbyid(n.nspowner)::text
from pg_namespace n
where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
union all
select 'extension', e.extname, p.property, p.value
from pg_extension e
cross join lateral (values
    ('version', e.extversion),
    ('schema', e.extnamespace::regnamespace::text),
    ('owner', pg_get_userbyid(e.extowner)::text),
    ('tables dumped with their rows',
     (select string_agg(concat_ws(' ', c.oid::regclass::text, k.condition), ', ' order by c.oid::regclass::text)
      from unnest(e.extconfig, e.extcondition) as k (oid, condition) join pg_class c on c.oid = k.oid))
) as p (property, value)
where p.value is not null
union all
-- Most members are functions, and pg_describe_object is slow on thousands of them. A member function can be altered in place.
select 'extension', e.extname,
       'member ' || case when d.classid = 'pg_proc'::regclass then 'function ' || d.objid::regprocedure::text
                         when d.classid = 'pg_class'::regclass then 'relation ' || d.objid::regclass::text
                         when d.classid = 'pg_operator'::regclass then 'operator ' || d.objid::regoperator::text
                         when d.classid = 'pg_type'::regclass then 'type ' || d.objid::regtype::text
                         else pg_describe_object(d.classid, d.objid, d.objsubid) end,
       coalesce('digest ' || md5(concat_ws(' ', f.prosrc, f.probin, f.provolatile, f.proisstrict, f.prosecdef, f.proleakproof, f.proparallel,
                                           f.procost, f.prorows, f.proconfig)), 'present')
from pg_extension e
join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
left join pg_proc f on d.classid = 'pg_proc'::regclass and f.oid = d.objid
union all
select 'publication', b.pubname, p.property, p.value
from pg_publication b
cross join lateral (values
    ('owner', pg_get_userbyid(b.pubowner)::text),
    ('all tables', case when b.puballtables then 'yes' else 'no' end),
    ('publishes', concat_ws(', ', case when b.pubinsert then 'insert' end, case when b.pubupdate then 'update' end,
                            case when b.pubdelete then 'delete' end, case when b.pubtruncate then 'truncate' end)),
    ('via partition root', case when b.pubviaroot then 'yes' else 'no' end)
) as p (property, value)
union all
select 'publication', b.pubname, 'table ' || r.prrelid::regclass::text,
       coalesce(nullif(concat_ws(' ',
           'columns (' || (select string_agg(quote_ident(a.attname), ', ' order by a.attname)
                           from unnest(r.prattrs::smallint[]) as k (attnum)
                           join pg_attribute a on a.attrelid = r.prrelid and a.attnum = k.attnum) || ')',
           'where ' || pg_get_expr(r.prqual, r.prrelid)), ''), 'present')
from pg_publication b
join pg_publication_rel r on r.prpubid = b.oid
union all
select 'publication', b.pubname, 'tables of schema ' || s.pnnspid::regnamespace::text, 'present'
from pg_publication b
join pg_publication_namespace s on s.pnpubid = b.oid
union all
select 'subscription', s.subname, p.property, p.value
from pg_subscription s
cross join lateral (values
    ('owner', pg_get_userbyid(s.subowner)::text),
    ('enabled', case when s.subenabled then 'yes' else 'no' end),
    ('slot', s.subslotname::text),
    ('publications', array_to_string(s.subpublications, ', ')),
    ('options', concat_ws(', ', 'binary ' || s.subbinary, 'stream ' || s.substream, 'synchronous commit ' || s.subsynccommit))
) as p (property, value)
where s.subdbid = (select oid from pg_database where datname = current_database()) and p.value is not null
union all
select 'event trigger', t.evtname, p.property, p.value
from pg_event_trigger t
cross join lateral (values
    ('owner', pg_get_userbyid(t.evtowner)::text),
    ('definition', concat_ws(' ', 'on', t.evtevent, 'when tag in (' || array_to_string(t.evttags, ', ') || ')', 'execute', t.evtfoid::regproc::text)),
    ('fires', case t.evtenabled when 'O' then 'yes' when 'D' then 'disabled' when 'R' then 'on a replica only' else 'always' end)
) as p (property, value)
where not exists (select from pg_depend d where d.classid = 'pg_event_trigger'::regclass and d.objid = t.oid and d.deptype = 'e')
union all
select 'foreign-data wrapper', w.fdwname, 'definition',
       concat_ws(', ', 'owner ' || pg_get_userbyid(w.fdwowner), 'handler ' || w.fdwhandler::regproc::text,
                 'validator ' || w.fdwvalidator::regproc::text, 'options ' || array_to_string(w.fdwoptions, ', '))
from pg_foreign_data_wrapper w
where not exists (select from pg_depend d where d.classid = 'pg_foreign_data_wrapper'::regclass and d.objid = w.oid and d.deptype = 'e')
union all
select 'server', s.srvname, p.property, p.value
from pg_foreign_server s
join pg_foreign_data_wrapper w on w.oid = s.srvfdw
cross join lateral (values
    ('owner', pg_get_userbyid(s.srvowner)::text),
    ('definition', concat_ws(', ', 'wrapper ' || w.fdwname, 'type ' || s.srvtype, 'version ' || s.srvversion,
                             'options ' || array_to_string(s.srvoptions, ', ')))
) as p (property, value)
union all
select 'user mapping', format('%s on server %I', u.usename, u.srvname), 'digest of options', coalesce(md5(array_to_string(u.umoptions, ', ')), 'none')
from pg_user_mappings u
union all
select 'language', l.lanname, 'definition',
       concat_ws(', ', 'owner ' || pg_get_userbyid(l.lanowner), case when l.lanpltrusted then 'trusted' end,
                 'handler ' || l.lanplcallfoid::regproc::text)
from pg_language l
where l.oid >= 16384
  and not exists (select from pg_depend d where d.classid = 'pg_language'::regclass and d.objid = l.oid and d.deptype = 'e')
union all
select 'access method', a.amname, 'handler', a.amhandler::text
from pg_am a
where a.oid >= 16384
  and not exists (select from pg_depend d where d.classid = 'pg_am'::regclass and d.objid = a.oid and d.deptype = 'e');
