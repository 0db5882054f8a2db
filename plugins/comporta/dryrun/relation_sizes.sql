-- Purpose:     size and shape of every table, materialized view and index outside the system catalogues.
-- Requires:    nothing.
-- Locks:       ACCESS SHARE on each relation while its size is read.
-- Transaction: yes.

select c.oid::bigint as oid, n.nspname as schema, c.relname as name, c.relkind::text as kind,
       pg_catalog.pg_table_size(c.oid)::bigint as bytes,
       pg_catalog.pg_total_relation_size(c.oid)::bigint as total_bytes,
       c.reltuples::bigint as rows_estimate,
       coalesce(s.n_dead_tup, 0)::bigint as dead_rows,
       coalesce(s.last_analyze is not null or s.last_autoanalyze is not null, false) or c.reltuples >= 0 as analyzed,
       i.indisvalid as valid,
       coalesce(i.indrelid, 0)::bigint as belongs_to,
       coalesce(h.inhparent, 0)::bigint as parent,
       case c.relreplident when 'n' then 'nothing' when 'f' then 'full' when 'i' then 'index'
                           when 'd' then case when exists (select from pg_catalog.pg_index k where k.indrelid = c.oid and k.indisprimary)
                                              then 'primary key' else 'nothing' end end as replica_identity,
       exists (select from pg_catalog.pg_publication_rel r where r.prrelid = c.oid) as published,
       coalesce(pg_catalog.pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT', false) as is_default
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join pg_catalog.pg_index i on i.indexrelid = c.oid
  left join pg_catalog.pg_stat_all_tables s on s.relid = c.oid
  left join pg_catalog.pg_inherits h on h.inhrelid = c.oid
 where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'cron', 'comporta')
   and n.nspname !~ '^pg_(toast_)?temp_'
   and c.relkind in ('r', 'p', 'i', 'I', 'm')
   and not exists (select from pg_catalog.pg_depend d
                    where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 2, 3
