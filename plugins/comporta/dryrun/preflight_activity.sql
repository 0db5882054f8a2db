-- Purpose:     what goes on at the server now that a change would have to wait for: transactions, vacuum, connections, replication.
-- Requires:    search_path = pg_catalog; membership in pg_read_all_stats to see other people's transactions.
-- Locks:       none.
-- Transaction: yes, read only. Ages are measured against the parameter now.

with others as (
    select a.pid, a.usename, a.state, %(now)s - a.xact_start as age,
           format('pid %%s, %%s, %%s', a.pid, a.usename, coalesce(nullif(a.application_name, ''), 'no application name')) as who
    from pg_stat_activity a
    where a.datname = current_database() and a.backend_type = 'client backend' and a.pid <> pg_backend_pid()
)
select 'long-transaction' as code, case when o.age > interval '10 minutes' then 'stop' else 'warn' end as severity,
       o.who as object, format('transaction open for %%s (%%s)', date_trunc('second', o.age), o.state) as evidence
from others o
where o.age > interval '30 seconds' and o.state not like 'idle in transaction%%'
union all
select 'idle-in-transaction', case when o.age > interval '5 minutes' then 'stop' else 'warn' end, o.who,
       format('transaction open for %%s, and its session is idle', date_trunc('second', o.age))
from others o
where o.age > interval '10 seconds' and o.state like 'idle in transaction%%'
union all
select 'activity-hidden', 'warn', 'pg_stat_activity', format('not known: %%s may not see the transactions of other roles', current_user)
where not pg_has_role('pg_read_all_stats', 'usage')
union all
select 'prepared-transaction', 'stop', format('prepared transaction %%L', p.gid), format('prepared by %%s at %%s, holds its locks until it ends', p.owner, p.prepared)
from pg_prepared_xacts p
where p.database = current_database()
union all
select 'wraparound-vacuum', 'stop', coalesce(v.relid::regclass::text, 'pid ' || a.pid), 'vacuum to prevent wraparound runs: it does not give way to a lock'
from pg_stat_activity a
left join pg_stat_progress_vacuum v using (pid)
where a.backend_type = 'autovacuum worker' and a.datname = current_database() and a.query like '%%(to prevent wraparound)%%'
union all
select 'autovacuum-running', 'note', coalesce(v.relid::regclass::text, 'pid ' || a.pid), 'autovacuum runs: it gives way after deadlock_timeout'
from pg_stat_activity a
left join pg_stat_progress_vacuum v using (pid)
where a.backend_type = 'autovacuum worker' and a.datname = current_database() and a.query not like '%%(to prevent wraparound)%%'
union all
select 'wraparound-near', case when age(d.datfrozenxid) > 1500000000 then 'stop' else 'warn' end, 'this database',
       format('oldest transaction id is %%s transactions old, vacuum is forced at %%s', age(d.datfrozenxid), current_setting('autovacuum_freeze_max_age'))
from pg_database d
where d.datname = current_database() and age(d.datfrozenxid) > current_setting('autovacuum_freeze_max_age')::bigint
union all
select 'few-connections-left', case when x.free < 3 then 'stop' else 'warn' end, 'max_connections', format('%%s of %%s connections are free', x.free, x.total)
from (select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
             - (select count(*) from pg_stat_activity where backend_type = 'client backend') as free,
             current_setting('max_connections')::int as total) x
where x.free < greatest(5, x.total / 10)
union all
select 'standby', 'stop', 'server', 'it is in recovery: nothing can be written here'
where pg_is_in_recovery()
union all
select 'slot-inactive', case when s.wal_status in ('unreserved', 'lost') then 'stop' else 'warn' end, format('replication slot %%I', s.slot_name),
       format('nobody reads it (WAL %%s); %%s MB of WAL are kept for it and a change adds to that', s.wal_status,
              coalesce((pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
                                        s.restart_lsn) / 1e6)::bigint::text, 'an unknown number of'))
from pg_replication_slots s
where not s.active
union all
select 'replica-behind', 'warn', coalesce(nullif(r.application_name, ''), 'pid ' || r.pid), format('replay is %%s behind', r.replay_lag)
from pg_stat_replication r
where r.replay_lag > interval '10 seconds';
