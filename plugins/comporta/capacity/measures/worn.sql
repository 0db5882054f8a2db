-- Purpose:     tables of which so large a share was written since the last VACUUM or ANALYZE that autovacuum would come soon, or that
--              nobody ever analyzed, and what each of them needs.
-- Requires:    nothing.
-- Locks:       none that matter.
-- Transaction: no matter.

with wear as (
    select c.oid::regclass::text as name, greatest(c.reltuples, 0) as rows, c.reltuples < 0 as never,
           greatest(pg_catalog.pg_stat_get_dead_tuples(c.oid), pg_catalog.pg_stat_get_ins_since_vacuum(c.oid)) as unvacuumed,
           pg_catalog.pg_stat_get_mod_since_analyze(c.oid) as unanalyzed
      from pg_catalog.pg_class c
     where c.relkind in ('r', 'm') and c.relpersistence = 'p' and c.relnamespace <> 'pg_catalog'::regnamespace
       and pg_catalog.pg_relation_size(c.oid) > 0
), needed as (
    select name, unvacuumed > 50 + %(share)s * rows as by_vacuum, never or unanalyzed > 50 + %(share)s * rows as by_analyze
      from wear
)
select name, by_vacuum, by_analyze from needed where by_vacuum or by_analyze order by name
