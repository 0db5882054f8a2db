-- Purpose:     yearly partitions of catalogue.geometrias are made two years ahead, from 2029 on: now, and daily by pg_cron.
-- Requires:    sql/support, OPT1. Membership in the owner of catalogue.geometrias, CREATE on the database (a schema for the
--              time of a move), pg_read_all_stats (to wait for old snapshots); with pg_cron: USAGE on schema cron and a role that it can log in as.
-- Locks:       an empty leaf: ACCESS EXCLUSIVE on the default partition, SHARE ROW EXCLUSIVE on the tables that it refers to,
--              for some ms. Years that have rows in the default partition: ACCESS EXCLUSIVE on the table and those that it
--              refers to for some tens of ms; each waited for at most 80 ms at a time and tried again.
-- Transaction: no, it commits as it goes; killed anywhere, run it again and it continues.

select comporta.claim('OPT4');

do $$
declare
    parent regclass := comporta.stored_in('catalogue.geometrias');
begin
    if comporta.date_key(parent) is null then
        raise exception 'OPT4 requires OPT1: expected catalogue.geometrias range-partitioned by a date, found relkind %',
                (select c.relkind from pg_catalog.pg_class c where c.oid = parent)
            using errcode = 'object_not_in_prerequisite_state', hint = 'Run sql/apply/OPT1_temporal_partitioning_geometrias.sql first. Nothing was changed.';
    end if;
    if to_regprocedure('catalogue.ensure_geometrias_partitions(integer)') is not null and not comporta.done('OPT4', 'begun') then
        raise exception 'catalogue.ensure_geometrias_partitions(integer) exists already and is not of OPT4. Nothing was changed.'
            using errcode = 'duplicate_function', hint = 'Rename it.';
    end if;
    if not comporta.done('OPT4', 'begun') then
        perform comporta.mark('OPT4', 'begun');
    end if;
end
$$;

create or replace procedure catalogue.ensure_geometrias_partitions(horizon_years integer default 2)
    language plpgsql
as $$
begin
    call comporta.ensure_yearly_partitions('OPT4', 'catalogue.geometrias', 2029, horizon_years);
end
$$;
comment on procedure catalogue.ensure_geometrias_partitions(integer) is
    'Makes the yearly partitions of geometrias from 2029 to so many years ahead of now, or of the newest row, and moves rows of those years out of the default partition.';

do $$
begin
    execute format('alter procedure catalogue.ensure_geometrias_partitions(integer) owner to %I',
                   (select pg_get_userbyid(c.relowner) from pg_catalog.pg_class c where c.oid = comporta.stored_in('catalogue.geometrias')));
    revoke execute on procedure catalogue.ensure_geometrias_partitions(integer) from public;
end
$$;

call catalogue.ensure_geometrias_partitions();

-- cron.schedule replaces a job of the same name and role: one that was there before comes back at the rollback.
do $$
declare
    home text := current_setting('cron.database_name', true);
    job_owner text := current_user;
    job bigint;
begin
    if home is null or home <> current_database() or to_regclass('cron.job') is null then
        perform comporta.mark('OPT4', 'unscheduled');
        raise notice 'no daily job: pg_cron is not in database % (it lives in %); call catalogue.ensure_geometrias_partitions() from elsewhere once a day',
            current_database(), coalesce(home, 'no database of this server');
        return;
    end if;
    if not comporta.done('OPT4', 'job') then
        perform comporta.mark('OPT4', 'job', jsonb_build_object('owner', job_owner, 'former', (
            select to_jsonb(j) from cron.job j where j.jobname = 'comporta_opt4_ensure_partitions' and j.username = job_owner)));
    end if;
    if comporta.detail('OPT4', 'job') ->> 'owner' <> job_owner then
        raise exception 'OPT4 was scheduled by role %, now it is %: pg_cron knows jobs by name and role', comporta.detail('OPT4', 'job') ->> 'owner', job_owner
            using hint = 'Run it as that role, or roll OPT4 back first.';
    end if;
    job := cron.schedule('comporta_opt4_ensure_partitions', '23 2 * * *', 'call catalogue.ensure_geometrias_partitions()');
    if exists (select from cron.job j where j.jobid = job and (j.database <> current_database() or not j.active)) then
        perform cron.alter_job(job, database := current_database(), active := true);
    end if;
    perform comporta.mark('OPT4', 'job', comporta.detail('OPT4', 'job') || jsonb_build_object('jobid', job));
    perform comporta.forget('OPT4', 'unscheduled');
end
$$;

select comporta.mark('OPT4', 'applied');
select comporta.release('OPT4');
