-- Purpose:     the cron jobs of OPT5 go, jobs that had their names come back, freshness as before. OPT3 and the rest stay.
-- Requires:    sql/support. The role that applied OPT5, or a superuser.
-- Locks:       none on tables that traffic uses. A running refresh is cancelled, its changes stay in search_delta.
-- Transaction: no; a kill at any statement is safe, run the script again. Without OPT5 it does nothing.

select comporta.claim('OPT5');

do $$
declare
    owner text := coalesce(comporta.detail('OPT5', 'job_owner') #>> '{}', current_user);
    former jsonb := coalesce(comporta.detail('OPT5', 'former_jobs'), '[]');
    ours bigint[];
    job record;
    restored bigint;
begin
    if to_regclass('cron.job') is null or comporta.done('OPT5', 'unscheduled') or not comporta.done('OPT5', 'former_jobs') then
        return;
    end if;
    perform comporta.mark('OPT5', 'unscheduled');
    select coalesce(array_agg(j.jobid), '{}') into ours from cron.job j
     where j.username = owner and j.jobname in ('comporta_refresh_search', 'comporta_prune_search_runs');
    perform comporta.mark('OPT5', 'jobs', to_jsonb(ours));
    if owner <> current_user then
        perform set_config('role', owner, true);
    end if;
    for job in select * from jsonb_to_recordset(former) f (jobid bigint, jobname text, schedule text, command text, database text, active boolean) loop
        restored := cron.schedule(job.jobname, job.schedule, job.command);
        if exists (select from cron.job j where j.jobid = restored and (j.database <> job.database or j.active <> job.active)) then
            perform cron.alter_job(restored, database := job.database, active := job.active);
        end if;
        ours := array_remove(ours, restored);
    end loop;
    perform cron.unschedule(gone) from unnest(ours) gone;
end
$$;

-- Cancel, never terminate: before 1.6 the launcher of pg_cron does not come back.
do $$
declare
    running integer;
begin
    for attempt in 1 .. 300 loop
        perform pg_stat_clear_snapshot();
        select count(*) filter (where pg_cancel_backend(a.pid)) into running from pg_stat_activity a
         where a.datname = current_database() and a.pid <> pg_backend_pid() and a.state = 'active'
           and a.backend_type not like '%launcher%' and a.query ilike 'call catalogue.refresh_search_job()%';
        exit when running = 0;
        commit;
        perform pg_sleep(0.1);
    end loop;
    if running > 0 then
        raise notice 'a refresh does not end although it was cancelled; it will fail at its next step, harmlessly';
    end if;
end
$$;

drop procedure if exists catalogue.refresh_search_job();
call comporta.with_lock('{}'::text[], 'drop table if exists catalogue.search_freshness');

-- The history of our runs, as they are known by their commands: a former job of the same name keeps its own.
do $$
begin
    if to_regclass('cron.job_run_details') is not null and comporta.done('OPT5', 'jobs') then
        delete from cron.job_run_details d
        where d.jobid in (select value::bigint from jsonb_array_elements_text(comporta.detail('OPT5', 'jobs')))
          and (d.command = 'call catalogue.refresh_search_job()' or d.command like 'delete from cron.job\_run\_details d using cron.job j%comporta\_refresh\_search%');
    end if;
end
$$;

select comporta.forget('OPT5');
select comporta.release('OPT5');
