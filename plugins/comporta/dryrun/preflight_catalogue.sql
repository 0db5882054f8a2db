-- Purpose:     what stands in the catalogue that a change would trip over: invalid objects, full sequences, missing identities, versions.
-- Requires:    search_path = pg_catalog. Parameter tables: text array of the release's tables, or null for all.
-- Locks:       none.
-- Transaction: yes, read only. What is outside the release's tables is a note.

with relation as (
    select c.oid, c.relkind, c.relreplident, format('%%I.%%I', n.nspname, c.relname) as name,
           %(tables)s::text[] is null or format('%%I.%%I', n.nspname, c.relname) = any (%(tables)s::text[]) as wanted
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'm') and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
)
select 'invalid-index' as code, case when r.wanted then 'stop' else 'note' end as severity, i.indexrelid::regclass::text as object,
       format('index of %%s is %%s', r.name, case when i.indisready then 'not valid: it costs writes and serves no query' else 'not ready' end) as evidence
from pg_index i
join relation r on r.oid = i.indrelid
where not i.indisvalid or not i.indisready
union all
select 'constraint-not-valid', case when r.wanted then 'warn' else 'note' end, format('%%I on %%s', k.conname, r.name),
       'rows from before it were never checked: ' || pg_get_constraintdef(k.oid)
from pg_constraint k
join relation r on r.oid = k.conrelid
where not k.convalidated
union all
select 'trigger-disabled', 'note', format('%%I on %%s', t.tgname, r.name), 'it is disabled now'
from pg_trigger t
join relation r on r.oid = t.tgrelid
where not t.tgisinternal and t.tgenabled = 'D'
union all
select 'sequence-near-its-end', case when x.used > 0.95 then 'stop' else 'warn' end, x.name,
       format('%%s of %%s values are used (%%s %%%%)', x.last_value, x.top, round(x.used * 100))
from (
    select s.last_value, t.top, s.last_value::numeric / t.top as used, format('%%I.%%I', s.schemaname, s.sequencename) as name
    from pg_sequences s
    join pg_class c on c.oid = format('%%I.%%I', s.schemaname, s.sequencename)::regclass
    left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
                         and d.refobjsubid > 0 and d.deptype in ('a', 'i')
    left join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    cross join lateral (select least(s.max_value, case a.atttypid when 'int4'::regtype then 2147483647 when 'int2'::regtype then 32767 end) as top) t
    where not s.cycle and s.increment_by > 0 and s.last_value is not null
) x
where x.used > 0.7
union all
select 'definer-without-search-path', 'warn', f.oid::regprocedure::text, 'SECURITY DEFINER and no search_path of its own: a caller chooses what its names mean'
from pg_proc f
join pg_namespace n on n.oid = f.pronamespace
where f.prosecdef and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
  and not exists (select from unnest(f.proconfig) as s (item) where s.item like 'search_path=%%')
  and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e')
union all
select 'published-without-identity', case when r.wanted then 'warn' else 'note' end, r.name,
       format('publication %%I sends its updates and deletes, which fail: no replica identity', b.pubname)
from pg_publication b
join pg_publication_tables p on p.pubname = b.pubname
join relation r on r.name = format('%%I.%%I', p.schemaname, p.tablename)
where (b.pubupdate or b.pubdelete)
  and (r.relreplident = 'n'
       or (r.relreplident = 'd' and not exists (select from pg_index i where i.indrelid = r.oid and i.indisprimary)))
union all
select 'extension-older', 'note', e.extname, format('installed %%s, this server offers %%s', e.extversion, a.default_version)
from pg_extension e
join pg_available_extensions a on a.name = e.extname
where a.default_version <> e.extversion
union all
select 'server-version', 'stop', 'server', format('expected PostgreSQL 15 or later, found %%s', current_setting('server_version'))
where current_setting('server_version_num')::int < 150000;
