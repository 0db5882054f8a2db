-- Purpose:     every relation of applications that holds bytes, and the table that it serves: partitions and indexes by their root,
--              what a change keeps aside by the table that it was or is for.
-- Requires:    parameters stored (oid[]), names and changes (text[]): what comporta.storage has, or nothing.
-- Locks:       ACCESS SHARE on each relation while its size is read.
-- Transaction: no matter.

with storage as (
    select s.relation, s.name, 'comporta\_' || lower(s.change) || '%%' as place
      from unnest(%(stored)s::oid[], %(names)s::text[], %(changes)s::text[]) as s (relation, name, change)
), relation as (
    select c.oid, format('%%s.%%s', n.nspname, c.relname) as name, c.relkind, c.relispartition, c.reltuples,
           coalesce(i.indrelid, c.oid) as heap
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
      left join pg_catalog.pg_index i on i.indexrelid = c.oid
     where c.relkind in ('r', 'm', 'i')
       and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'cron', 'comporta')
       and n.nspname !~ '^pg_(toast_)?temp_'
       and not exists (select from pg_catalog.pg_depend d
                        where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = coalesce(i.indrelid, c.oid) and d.deptype = 'e')
), rooted as (
    select r.*, coalesce(pg_catalog.pg_partition_root(r.heap), r.heap) as root from relation r
)
select coalesce((select s.name from storage s where s.relation = r.root),
                case when n.nspname like 'comporta\_%%' then coalesce(
                    (select min(format('%%s.%%s', o.nspname, k.relname))
                       from pg_catalog.pg_class k join pg_catalog.pg_namespace o on o.oid = k.relnamespace
                      where k.relname = c.relname and k.relkind in ('r', 'p', 'v') and o.nspname !~ '^(comporta|pg_)'),
                    (select min(s.name) from storage s where n.nspname like s.place)) end,
                format('%%s.%%s', n.nspname, c.relname)) as "table",
       r.name,
       case when r.relkind = 'i' then 'index' when r.relkind = 'm' then 'view' when r.relispartition then 'partition' else 'table' end as kind,
       case when r.relkind = 'i' then pg_catalog.pg_relation_size(r.oid) else pg_catalog.pg_table_size(r.oid) end as bytes,
       case when r.relkind = 'i' then -1 else r.reltuples::bigint end as rows
  from rooted r
  join pg_catalog.pg_class c on c.oid = r.root
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 order by 1, 2
