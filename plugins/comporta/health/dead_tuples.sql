-- Purpose:     the share of dead rows in each table, its partitions included; 0 below a number of rows, null where nothing is known.
-- Requires:    nothing: what the statistics count is public.
-- Locks:       none on the tables.
-- Transaction: no matter. Parameters: tables (text[]), min_rows.
--
-- A crash empties the statistics. They know a large table again when they have counted about as many rows as its last ANALYZE did.

select named.name,
       case when stats.counted is null or (stats.counted < stats.analyzed / 2 and stats.analyzed >= %(min_rows)s) then null
            when stats.counted < greatest(%(min_rows)s, 1) then 0
            else stats.dead / stats.counted end::double precision
  from unnest(%(tables)s::text[]) as named (name)
 cross join lateral (
        select sum(s.n_dead_tup) as dead, sum(s.n_live_tup + s.n_dead_tup) as counted, sum(greatest(c.reltuples, 0)) as analyzed
          from pg_catalog.pg_stat_all_tables s
          join pg_catalog.pg_class c on c.oid = s.relid and c.relkind <> 'p'
         where s.relid = pg_catalog.to_regclass(named.name)
            or s.relid in (select tree.relid from pg_catalog.pg_partition_tree(pg_catalog.to_regclass(named.name)) tree)
       ) as stats
