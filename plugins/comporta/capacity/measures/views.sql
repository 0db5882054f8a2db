-- Purpose:     materialized views of applications: whether a refresh may be concurrent, the procedure that refreshes it, and every
--              procedure that calls that one.
-- Requires:    nothing.
-- Locks:       none that matter.
-- Transaction: no matter.

with view as (
    select c.oid, n.nspname, c.relname, format('%s.%s', n.nspname, c.relname) as name,
           c.relispopulated and exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisunique and i.indisvalid
                                                                          and i.indpred is null and i.indexprs is null) as concurrently
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'm' and n.nspname !~ '^(pg_|information_schema|comporta)'
), procedure as (
    select p.oid, n.nspname, p.proname, format('%s.%s', n.nspname, p.proname) as name, p.prosrc, p.pronargs = p.pronargdefaults as callable
      from pg_catalog.pg_proc p
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where p.prokind = 'p'
), refresher as (
    select distinct on (v.oid) v.oid as view, p.nspname, p.proname, p.name
      from view v
      join procedure p on p.callable and p.prosrc ~* ('refresh\s+materialized\s+view\s+(concurrently\s+)?' || replace(v.name, '.', '\.') || '\M')
     order by v.oid, p.oid
)
select v.nspname, v.relname, v.concurrently, r.nspname, r.proname,
       array_remove(array_agg(distinct p.name) || r.name, null)
  from view v
  left join refresher r on r.view = v.oid
  left join procedure p on position(r.name in p.prosrc) > 0
 group by v.nspname, v.relname, v.concurrently, r.nspname, r.proname, r.name
 order by 1, 2
