-- Purpose:     fails unless OPT5 is wholly in place, a refresh by hand works, and its freshness is recorded.
-- Requires:    OPT5. Membership in the owner of catalogue.search_names; to see the jobs: their role, or superuser.
-- Locks:       ACCESS SHARE on geometrias, EXCLUSIVE on the view for one refresh (searches go on).
-- Transaction: no. Changes nothing but the freshness.

do $$
declare
    job record;
    failed text;
begin
    if to_regclass('cron.job') is null or to_regclass('catalogue.search_freshness') is null or to_regprocedure('catalogue.refresh_search_job()') is null then
        raise exception 'OPT5 is not in place: expected catalogue.search_freshness and catalogue.refresh_search_job(), found %, %',
            coalesce(to_regclass('catalogue.search_freshness')::text, 'none'), coalesce(to_regprocedure('catalogue.refresh_search_job()')::text, 'none')
            using hint = 'Run sql/apply/OPT5_mv_refresh_scheduling_cron.sql; it continues where it stopped.';
    end if;
    for job in
        select wanted.name, wanted.part, j.jobid, j.command, j.active, j.database
        from (values ('comporta_refresh_search', 'call catalogue.refresh_search_job()'), ('comporta_prune_search_runs', 'delete from cron.job_run_details')) wanted (name, part)
        left join cron.job j on j.jobname = wanted.name and strpos(j.command, wanted.part) = 1
             and j.username = coalesce(comporta.detail('OPT5', 'job_owner') #>> '{}', current_user)
    loop
        if job.jobid is null then
            raise exception 'OPT5 is half in place: expected cron job % with command "%..", found none', job.name, job.part
                using hint = 'Run sql/apply/OPT5_mv_refresh_scheduling_cron.sql; it continues where it stopped.';
        elsif not job.active or job.database <> current_database() then
            raise exception 'cron job % is expected active in database %, found active = % in database %', job.name, current_database(), job.active, job.database
                using hint = 'select cron.alter_job(jobid, database := .., active := true), or run the apply script again.';
        end if;
        select d.return_message into failed from cron.job_run_details d where d.jobid = job.jobid and d.status in ('succeeded', 'failed') order by d.runid desc limit 1;
        if exists (select from (select d.status from cron.job_run_details d where d.jobid = job.jobid and d.status in ('succeeded', 'failed')
                                order by d.runid desc limit 1) last where last.status = 'failed') then
            raise exception 'the last run of cron job % failed: %', job.name, failed
                using hint = 'A failed connection points to pg_hba.conf or cron.host: pg_cron logs in as the role of the job.';
        end if;
    end loop;
    if not exists (select from pg_index i where i.indrelid = 'catalogue.search_names'::regclass
                   and i.indisunique and i.indisvalid and i.indisready and i.indpred is null and i.indexprs is null) then
        raise exception 'catalogue.search_names has no valid unique index: it cannot be refreshed concurrently' using hint = 'Run the apply script of OPT3 again.';
    end if;
    perform set_config('comporta.verify_started', clock_timestamp()::text, false);
end
$$;

call catalogue.refresh_search_job();

-- Skipped, if a scheduled run was at work: then that one records its own.
do $$
declare
    freshness catalogue.search_freshness;
    started timestamptz := current_setting('comporta.verify_started')::timestamptz;
begin
    for attempt in 1 .. 600 loop
        select * into freshness from catalogue.search_freshness;
        exit when freshness.noted_at >= started and freshness.state <> 'skipped';
        perform pg_sleep(0.1);
    end loop;
    if freshness.noted_at is null or freshness.noted_at < started or freshness.state = 'skipped' or freshness.as_of is null then
        raise exception 'a refresh by hand left no freshness: expected as_of after %, found as_of %, state %',
            started, coalesce(freshness.as_of::text, 'none'), coalesce(freshness.state, 'none')
            using hint = 'It is skipped while a change script runs: end that, verify again.';
    end if;
    if freshness.rows <> (select count(*) from catalogue.search_names) then
        raise exception 'the freshness names % rows, the view holds %', freshness.rows, (select count(*) from catalogue.search_names);
    end if;
end
$$;
