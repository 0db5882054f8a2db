-- Purpose:     facts of functions, procedures, aggregates, types, operators, casts and text search objects that no extension owns.
-- Requires:    search_path = pg_catalog, so that every other name comes out qualified.
-- Locks:       none.
-- Transaction: yes, read only.

with space as (
    select oid, nspname from pg_namespace
    where nspname !~ '^pg_' and nspname not in ('information_schema', 'comporta')
),
member as (
    select classid, objid from pg_depend where deptype = 'e' and refclassid = 'pg_extension'::regclass
),
routine as (
    select f.*, f.oid::regprocedure::text as name,
           case f.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end as kind
    from pg_proc f
    join space n on n.oid = f.pronamespace
    where not exists (select from member m where m.classid = 'pg_proc'::regclass and m.objid = f.oid)
),
own_type as (
    select t.*, format_type(t.oid, null) as name
    from pg_type t
    join space n on n.oid = t.typnamespace
    where t.typtype in ('d', 'e', 'r', 'c', 'b')
      and not exists (select from pg_type e where e.typarray = t.oid)
      and not exists (select from pg_class c where c.oid = t.typrelid and c.relkind <> 'c')
      and not exists (select from member m where m.classid = 'pg_type'::regclass and m.objid = t.oid)
)
select r.kind, r.name, p.property, p.value
from routine r
join pg_language l on l.oid = r.prolang
left join pg_aggregate g on g.aggfnoid = r.oid
cross join lateral (values
    ('owner', pg_get_userbyid(r.proowner)::text),
    ('language', l.lanname::text),
    ('arguments', pg_get_function_arguments(r.oid)),
    ('result', pg_get_function_result(r.oid)),
    ('source', coalesce(pg_get_function_sqlbody(r.oid), nullif(r.prosrc, ''))),
    ('library', r.probin),
    ('volatility', case r.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end),
    ('security', case when r.prosecdef then 'definer' else 'invoker' end),
    ('leakproof', case when r.proleakproof then 'yes' end),
    ('strict', case when r.proisstrict then 'yes' end),
    ('window', case when r.prokind = 'w' then 'yes' end),
    ('parallel', case r.proparallel when 's' then 'safe' when 'r' then 'restricted' else 'unsafe' end),
    ('cost', r.procost::text),
    ('rows', case when r.proretset then r.prorows::text end),
    ('support', case when r.prosupport <> 0 then r.prosupport::text end),
    ('aggregate', case when g.aggfnoid is not null then
        concat_ws(', ', 'kind ' || g.aggkind::text, 'transition ' || g.aggtransfn::text,
                  'state ' || format_type(g.aggtranstype, null), 'space ' || g.aggtransspace::text,
                  'final ' || nullif(g.aggfinalfn::text, '-'), 'combine ' || nullif(g.aggcombinefn::text, '-'),
                  'serial ' || nullif(g.aggserialfn::text, '-'), 'deserial ' || nullif(g.aggdeserialfn::text, '-'),
                  'moving ' || nullif(g.aggmtransfn::text, '-'), 'initial ' || g.agginitval,
                  'sort ' || case when g.aggsortop <> 0 then g.aggsortop::regoperator::text end) end)
) as p (property, value)
where p.value is not null
union all
select r.kind, r.name, 'setting ' || split_part(s.item, '=', 1), substr(s.item, strpos(s.item, '=') + 1)
from routine r cross join lateral unnest(r.proconfig) as s (item)
union all
select distinct r.kind, r.name, 'reads ' || d.refobjid::regclass::text, 'present'
from routine r
join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
union all
select case t.typtype when 'd' then 'domain' else 'type' end, t.name, p.property, p.value
from own_type t
left join pg_range g on g.rngtypid = t.oid
cross join lateral (values
    ('owner', pg_get_userbyid(t.typowner)::text),
    ('kind', case t.typtype when 'e' then 'enum' when 'r' then 'range' when 'c' then 'composite' when 'b' then 'base' end),
    ('base type', case when t.typtype = 'd' then format_type(t.typbasetype, t.typtypmod) end),
    ('not null', case when t.typnotnull then 'yes' end),
    ('default', t.typdefault),
    ('collation', case when t.typtype = 'd' and t.typcollation <> 0 then t.typcollation::regcollation::text end),
    ('labels', (select string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid)),
    ('range of', case when g.rngtypid is not null then
        concat_ws(', ', format_type(g.rngsubtype, null), 'multirange ' || format_type(g.rngmultitypid, null),
                  'canonical ' || nullif(g.rngcanonical::text, '-'), 'difference ' || nullif(g.rngsubdiff::text, '-')) end),
    ('functions', case when t.typtype = 'b' then
        concat_ws(', ', t.typinput::text, t.typoutput::text, t.typreceive::text, t.typsend::text, t.typmodin::text, t.typmodout::text,
                  t.typlen, t.typbyval, t.typalign, t.typstorage, t.typdelim) end)
) as p (property, value)
where p.value is not null
union all
select 'constraint', format('%I on domain %s', k.conname, t.name), p.property, p.value
from own_type t
join pg_constraint k on k.contypid = t.oid
cross join lateral (values
    ('definition', regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '')),
    ('validated', case when k.convalidated then 'yes' else 'no' end)
) as p (property, value)
union all
select 'operator', o.oid::regoperator::text, 'definition',
       concat_ws(', ', 'owner ' || pg_get_userbyid(o.oprowner), 'function ' || o.oprcode::text, 'result ' || format_type(o.oprresult, null),
                 'commutator ' || case when o.oprcom <> 0 then o.oprcom::regoperator::text end,
                 'negator ' || case when o.oprnegate <> 0 then o.oprnegate::regoperator::text end,
                 'restrict ' || nullif(o.oprrest::text, '-'), 'join ' || nullif(o.oprjoin::text, '-'),
                 case when o.oprcanhash then 'hashes' end, case when o.oprcanmerge then 'merges' end)
from pg_operator o
join space n on n.oid = o.oprnamespace
where not exists (select from member m where m.classid = 'pg_operator'::regclass and m.objid = o.oid)
union all
select 'cast', format('(%s as %s)', format_type(k.castsource, null), format_type(k.casttarget, null)), 'definition',
       concat_ws(', ', 'method ' || k.castmethod::text, 'context ' || k.castcontext::text,
                 'function ' || case when k.castfunc <> 0 then k.castfunc::regprocedure::text end)
from pg_cast k
where k.oid >= 16384
  and not exists (select from member m where m.classid = 'pg_cast'::regclass and m.objid = k.oid)
union all
select 'operator class', format('%I.%I for %s', n.nspname, c.opcname, a.amname), 'definition',
       concat_ws(', ', 'owner ' || pg_get_userbyid(c.opcowner), 'family ' || f.opfname, 'type ' || format_type(c.opcintype, null),
                 case when c.opcdefault then 'default' end, 'stores ' || case when c.opckeytype <> 0 then format_type(c.opckeytype, null) end)
from pg_opclass c
join space n on n.oid = c.opcnamespace
join pg_am a on a.oid = c.opcmethod
join pg_opfamily f on f.oid = c.opcfamily
where not exists (select from member m where m.classid = 'pg_opclass'::regclass and m.objid = c.oid)
union all
select 'operator family', format('%I.%I for %s', n.nspname, f.opfname, a.amname), x.property, x.value
from pg_opfamily f
join space n on n.oid = f.opfnamespace
join pg_am a on a.oid = f.opfmethod
cross join lateral (
    select 'owner', pg_get_userbyid(f.opfowner)::text
    union all
    select format('operator %s', o.amopstrategy), string_agg(o.amopopr::regoperator::text, ', ' order by o.amopopr::regoperator::text)
    from pg_amop o where o.amopfamily = f.oid group by o.amopstrategy
    union all
    select format('function %s', s.amprocnum), string_agg(s.amproc::regprocedure::text, ', ' order by s.amproc::regprocedure::text)
    from pg_amproc s where s.amprocfamily = f.oid group by s.amprocnum
) as x (property, value)
where not exists (select from member m where m.classid = 'pg_opfamily'::regclass and m.objid = f.oid)
union all
select 'collation', format('%I.%I', n.nspname, c.collname), 'definition',
       concat_ws(', ', 'owner ' || pg_get_userbyid(c.collowner), 'provider ' || c.collprovider::text, c.collcollate, c.collctype,
                 to_jsonb(c) ->> 'colliculocale', to_jsonb(c) ->> 'colllocale', case when not c.collisdeterministic then 'not deterministic' end)
from pg_collation c
join space n on n.oid = c.collnamespace
where not exists (select from member m where m.classid = 'pg_collation'::regclass and m.objid = c.oid)
union all
select 'conversion', format('%I.%I', n.nspname, c.conname), 'definition',
       concat_ws(', ', 'owner ' || pg_get_userbyid(c.conowner), pg_encoding_to_char(c.conforencoding), pg_encoding_to_char(c.contoencoding),
                 c.conproc::text, case when c.condefault then 'default' end)
from pg_conversion c
join space n on n.oid = c.connamespace
where not exists (select from member m where m.classid = 'pg_conversion'::regclass and m.objid = c.oid)
union all
select 'text search dictionary', format('%I.%I', n.nspname, d.dictname), 'definition',
       concat_ws(', ', 'owner ' || pg_get_userbyid(d.dictowner), 'template ' || t.tmplname, d.dictinitoption)
from pg_ts_dict d
join space n on n.oid = d.dictnamespace
join pg_ts_template t on t.oid = d.dicttemplate
where not exists (select from member m where m.classid = 'pg_ts_dict'::regclass and m.objid = d.oid)
union all
select 'text search configuration', format('%I.%I', n.nspname, c.cfgname), x.property, x.value
from pg_ts_config c
join space n on n.oid = c.cfgnamespace
join pg_ts_parser s on s.oid = c.cfgparser
cross join lateral (
    select 'definition', concat_ws(', ', 'owner ' || pg_get_userbyid(c.cfgowner), 'parser ' || s.prsname)
    union all
    select 'token ' || k.alias, string_agg(m.mapdict::regdictionary::text, ', ' order by m.mapseqno)
    from pg_ts_config_map m join ts_token_type(c.cfgparser) k on k.tokid = m.maptokentype
    where m.mapcfg = c.oid group by k.alias
) as x (property, value)
where not exists (select from member m where m.classid = 'pg_ts_config'::regclass and m.objid = c.oid);
