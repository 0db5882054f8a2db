-- Purpose:     facts of pg_cron's jobs, without their number: rescheduling gives a new one.
-- Requires:    pg_cron 1.3 or later; a role other than a superuser sees its own jobs only.
-- Locks:       ACCESS SHARE on cron.job.
-- Transaction: yes, read only.

select 'cron job' as kind, format('%s of %s', coalesce(j.jobname, 'unnamed: ' || j.command), j.username) as name, p.property, p.value
from cron.job j
cross join lateral (values
    ('schedule', j.schedule),
    ('command', j.command),
    ('database', case when j.database = current_database() then 'this database' else j.database end),
    ('active', case when j.active then 'yes' else 'no' end)
) as p (property, value);
