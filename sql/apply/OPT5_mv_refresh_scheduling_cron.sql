-- Purpose:     pg_cron refreshes the view behind rpc_search concurrently, records how fresh it is, and prunes its own run history.
-- Requires:    sql/support, OPT3; pg_cron in this database (cron.database_name). Membership in the owner of catalogue.search_names,
--              USAGE on schema cron; a role that pg_cron can log in as (the jobs run as the role that runs this script).
-- Locks:       none on user tables; the refresh takes EXCLUSIVE on the view (searches go on) and ACCESS SHARE on geometrias.
-- Transaction: no; a kill at any statement is safe, run the script again.

select comporta.claim('OPT5');

-- The one place to change the rhythm: here, or beforehand with  alter database .. set comporta.refresh_schedule = '*/2 * * * *'.
select set_config('comporta.refresh_schedule', coalesce(nullif(current_setting('comporta.refresh_schedule', true), ''), '*/5 * * * *'), false),
       set_config('comporta.keep_runs', coalesce(nullif(current_setting('comporta.keep_runs', true), ''), '7 days'), false);

do $$
declare
    home text := current_setting('cron.database_name', true);
begin
    if not comporta.done('OPT3', 'applied') or to_regprocedure('catalogue.refresh_search(boolean, jsonb)') is null then
        raise exception 'OPT5 requires OPT3, which is not in place. Nothing was changed.'
            using hint = 'Run sql/apply/OPT3_indexed_views_rpc_search.sql first.';
    end if;
    if home is null then
        raise exception 'OPT5 requires pg_cron, which this server does not load. Nothing was changed.'
            using hint = 'Add pg_cron to shared_preload_libraries and restart the server.';
    end if;
    if home <> current_database() then
        raise exception 'OPT5 cannot schedule from database %: pg_cron lives in database % (cron.database_name). Nothing was changed.', current_database(), home
            using hint = format('In database %I: select cron.schedule_in_database(%L, %L, %L, %L);', home, 'comporta_refresh_search',
                                current_setting('comporta.refresh_schedule'), 'call catalogue.refresh_search()', current_database());
    end if;
    if to_regclass('cron.job') is null then
        raise exception 'OPT5 requires the extension pg_cron in database %. Nothing was changed.', home using hint = 'create extension pg_cron;';
    end if;
end
$$;

-- Jobs of these names that were there before OPT5 come back at the rollback.
do $$
begin
    if not comporta.done('OPT5', 'former_jobs') then
        perform comporta.mark('OPT5', 'former_jobs', coalesce((
            select jsonb_agg(to_jsonb(j) order by j.jobid) from cron.job j
            where j.jobname in ('comporta_refresh_search', 'comporta_prune_search_runs') and j.username = current_user), '[]'));
        perform comporta.mark('OPT5', 'job_owner', to_jsonb(current_user));
    end if;
    if comporta.detail('OPT5', 'job_owner') #>> '{}' <> current_user then
        raise exception 'OPT5 was begun by role %, now it is %: pg_cron knows jobs by name and role', comporta.detail('OPT5', 'job_owner') #>> '{}', current_user
            using hint = 'Run it as that role, or roll OPT5 back first.';
    end if;
end
$$;

select set_config('role', pg_get_userbyid(c.relowner), false) from pg_class c where c.oid = 'catalogue.search_names'::regclass;

create table if not exists catalogue.search_freshness (
    only_row     boolean not null default true,
    as_of        timestamptz,
    refreshed_at timestamptz,
    rows         bigint,
    drained      bigint,
    seconds      numeric,
    state        text not null,
    skipped      bigint not null default 0,
    noted_at     timestamptz not null default clock_timestamp(),
    constraint search_freshness_pkey primary key (only_row),
    constraint search_freshness_one_row check (only_row)
);
comment on table catalogue.search_freshness is 'How fresh search_names is: it holds every write committed before as_of. Answers of rpc_search are never stale, only slower.';
comment on column catalogue.search_freshness.skipped is 'Runs skipped in a row, because another refresh or a change script was running.';

-- Refreshes if something changed, and once an hour in any case: rows written under session_replication_role = replica fire no trigger.
create or replace procedure catalogue.refresh_search_job()
    language plpgsql
as $$
declare
    outcome jsonb;
    force boolean;
begin
    -- A change script needs the table for itself for some milliseconds: stay out of its way.
    if exists (
        select from pg_catalog.pg_locks l
        where l.locktype = 'advisory' and l.granted and l.objsubid = 2 and l.pid <> pg_catalog.pg_backend_pid()
          and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
          and l.classid = (pg_catalog.hashtext('comporta')::bigint & 4294967295)::oid
          and l.objid = (pg_catalog.hashtext('change')::bigint & 4294967295)::oid
    ) then
        outcome := pg_catalog.jsonb_build_object('state', 'skipped', 'reason', 'a change script is running');
        raise notice 'skipped: a change script is running';
    else
        force := not exists (select from catalogue.search_freshness f
                             where f.refreshed_at > pg_catalog.clock_timestamp() - interval '1 hour');
        call catalogue.refresh_search(force, outcome);
    end if;
    insert into catalogue.search_freshness as f (as_of, refreshed_at, rows, drained, seconds, state, skipped)
    values ((outcome ->> 'as_of')::timestamptz, case when outcome ->> 'state' = 'refreshed' then (outcome ->> 'as_of')::timestamptz end,
            (outcome ->> 'rows')::bigint, (outcome ->> 'drained')::bigint, (outcome ->> 'seconds')::numeric,
            outcome ->> 'state', case when outcome ->> 'state' = 'skipped' then 1 else 0 end)
    on conflict on constraint search_freshness_pkey do update set
        as_of = coalesce(excluded.as_of, f.as_of),
        refreshed_at = coalesce(excluded.refreshed_at, f.refreshed_at),
        rows = coalesce(excluded.rows, f.rows),
        drained = coalesce(excluded.drained, f.drained),
        seconds = coalesce(excluded.seconds, f.seconds),
        state = excluded.state,
        skipped = case when excluded.state = 'skipped' then f.skipped + 1 else 0 end,
        noted_at = pg_catalog.clock_timestamp();
end
$$;
comment on procedure catalogue.refresh_search_job() is 'What pg_cron calls: refresh_search unless something else is at work, and the result in search_freshness.';
revoke execute on procedure catalogue.refresh_search_job() from public;

reset role;

-- cron.schedule replaces a job of the same name and role, but not its database nor an inactive state.
do $$
declare
    refresher bigint;
    pruner bigint;
    job record;
begin
    refresher := cron.schedule('comporta_refresh_search', current_setting('comporta.refresh_schedule'), 'call catalogue.refresh_search_job()');
    pruner := cron.schedule('comporta_prune_search_runs', '17 3 * * *', format(
        'delete from cron.job_run_details d using cron.job j where d.jobid = j.jobid and j.jobname in (''comporta_refresh_search'', ''comporta_prune_search_runs'')'
        ' and d.end_time < now() - interval %L', current_setting('comporta.keep_runs')));
    for job in select jobid from cron.job where jobid in (refresher, pruner) and (database <> current_database() or not active) loop
        perform cron.alter_job(job.jobid, database := current_database(), active := true);
    end loop;
    perform comporta.mark('OPT5', 'jobs', jsonb_build_array(refresher, pruner));
    perform comporta.forget('OPT5', 'unscheduled');
end
$$;

call catalogue.refresh_search_job();

select comporta.mark('OPT5', 'applied');
select comporta.release('OPT5');
