-- Purpose:     the share of dead rows in each table, its partitions included; 0 below a number of rows, null where nothing is known.
-- Requires:    nothing: what the statistics collector counts is public.
-- Locks:       none on the tables.
-- Transaction: no matter. Parameters: tables (text[]), min_rows.

select named.name,
       stats.dead,
       case when stats.dead + stats.live < greatest(%(min_rows)s, 1) then 0 else stats.dead / (stats.dead + stats.live) end::double precision
  from unnest(%(tables)s::text[]) as named (name)
  left join lateral (
        select sum(s.n_dead_tup) as dead, sum(s.n_live_tup) as live
          from pg_catalog.pg_stat_all_tables s
         where s.relid = pg_catalog.to_regclass(named.name)
            or s.relid in (select tree.relid from pg_catalog.pg_partition_tree(pg_catalog.to_regclass(named.name)) tree)
       ) as stats on true
