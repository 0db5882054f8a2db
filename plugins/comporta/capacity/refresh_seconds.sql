-- Purpose:     how long the refreshes of a day took, seconds: of the runs that had work to do, the middle one; null where there was none.
-- Requires:    pg_cron in this database. Parameter since (timestamptz): runs that began before it do not count.
-- Locks:       none that matter.
-- Transaction: no matter.

with run as (
    select extract(epoch from d.end_time - d.start_time) as seconds
      from cron.job_run_details d
      join cron.job j on j.jobid = d.jobid
     where d.status = 'succeeded' and j.command ~* 'refresh' and d.database = pg_catalog.current_database()
       and d.start_time >= greatest(%(since)s::timestamptz, pg_catalog.now() - interval '1 day')
)
select percentile_cont(0.5) within group (order by r.seconds)::float8, count(*)
  from run r
 where r.seconds >= (select max(seconds) from run) / 2
