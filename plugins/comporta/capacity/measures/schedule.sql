-- Purpose:     the schedule of the first active job of this database that names one of some procedures or views.
-- Requires:    pg_cron; parameter names (text[]).
-- Locks:       none that matter.
-- Transaction: no matter.

select j.schedule
  from cron.job j
 where j.active and j.database = pg_catalog.current_database()
   and exists (select from unnest(%(names)s::text[]) as n (name) where position(n.name in j.command) > 0)
 order by j.jobid
 limit 1
