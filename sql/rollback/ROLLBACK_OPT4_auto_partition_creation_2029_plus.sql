-- Purpose:     the daily job and the partitions of OPT4 go; their rows live in the default partition again. OPT1 and the rest stay.
-- Requires:    sql/support. The role that applied OPT4, or a superuser.
-- Locks:       ACCESS EXCLUSIVE on the partitioned table and the tables that it refers to, for some tens of ms a time, each
--              waited for at most 80 ms at a time and tried again; SHARE ROW EXCLUSIVE on the partitions that go, for moments.
-- Transaction: no, it commits as it goes; killed anywhere, run it again and it continues. Without OPT4 it does nothing.

select comporta.claim('OPT4');

do $$
declare
    job jsonb := comporta.detail('OPT4', 'job');
    former record;
    restored bigint;
begin
    if job is null or to_regclass('cron.job') is null or comporta.done('OPT4', 'unscheduled') then
        return;
    end if;
    if job ->> 'owner' <> current_user then
        perform set_config('role', job ->> 'owner', true);
    end if;
    if job -> 'former' <> 'null' then
        select * into former from jsonb_to_record(job -> 'former') f (jobname text, schedule text, command text, database text, active boolean);
        restored := cron.schedule(former.jobname, former.schedule, former.command);
        if exists (select from cron.job j where j.jobid = restored and (j.database <> former.database or j.active <> former.active)) then
            perform cron.alter_job(restored, database := former.database, active := former.active);
        end if;
    else
        perform cron.unschedule(j.jobid) from cron.job j where j.jobname = 'comporta_opt4_ensure_partitions' and j.username = current_user;
    end if;
    reset role;
    if job ? 'jobid' then
        delete from cron.job_run_details d
         where d.jobid = (job ->> 'jobid')::bigint and d.command = 'call catalogue.ensure_geometrias_partitions()';
    end if;
    perform comporta.mark('OPT4', 'unscheduled');
end
$$;

call comporta.remove_yearly_partitions('OPT4', 'catalogue.geometrias');

do $$
begin
    if comporta.done('OPT4', 'begun') then
        drop procedure if exists catalogue.ensure_geometrias_partitions(integer);
    end if;
end
$$;

select comporta.forget('OPT4');
select comporta.release('OPT4');
