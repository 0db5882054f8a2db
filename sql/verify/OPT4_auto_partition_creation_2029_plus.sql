-- Purpose:     fails unless OPT4 is wholly in place: procedure, partitions up to the horizon, a clear default partition, the job.
-- Requires:    OPT4. Membership in the owner of catalogue.geometrias; to see the job: its role, or superuser.
-- Locks:       ACCESS SHARE on the partitions, ROW EXCLUSIVE for one insert that is taken back.
-- Transaction: may run in one or in none. Changes nothing.

do $$
declare
    parent regclass := comporta.stored_in('catalogue.geometrias');
    key text := comporta.date_key(parent);
    horizon jsonb := comporta.detail('OPT4', 'horizon');
    first_year integer := (horizon ->> 'first_year')::integer;
    last_year integer := (horizon ->> 'last_year')::integer;
    expected_last integer := greatest(extract(year from current_date)::integer, 2029) + 2;
    indexes integer;
    found_indexes integer;
    leaf record;
    left_over bigint;
    try_again constant text := 'Run sql/apply/OPT4_auto_partition_creation_2029_plus.sql; it continues where it stopped.';
begin
    if to_regprocedure('catalogue.ensure_geometrias_partitions(integer)') is null or key is null or horizon is null then
        raise exception 'OPT4 is not in place: expected catalogue.ensure_geometrias_partitions(integer), a partitioned table and a horizon, found %, %, %',
            coalesce(to_regprocedure('catalogue.ensure_geometrias_partitions(integer)')::text, 'no procedure'),
            coalesce('partitioned by ' || key, 'no partitions'), coalesce(horizon::text, 'no horizon') using hint = try_again;
    end if;
    if last_year < expected_last and (horizon ->> 'horizon_years')::integer >= 2 then
        raise exception 'the horizon of OPT4 is behind: expected partitions up to %, found up to %', expected_last, last_year
            using hint = 'The daily job did not run: call catalogue.ensure_geometrias_partitions().';
    end if;
    select count(*) into indexes from pg_catalog.pg_index i where i.indrelid = parent and i.indisvalid;
    for year in first_year .. last_year loop
        select p.leaf, p.name into leaf from comporta.partitions(parent) p where p.low <= make_date(year, 1, 1) and p.high >= make_date(year + 1, 1, 1);
        if leaf.leaf is null then
            raise exception 'expected a partition for the year %, found none', year using hint = try_again;
        end if;
        select count(*) into found_indexes
          from pg_catalog.pg_index i join pg_catalog.pg_inherits h on h.inhrelid = i.indexrelid
          join pg_catalog.pg_index p on p.indexrelid = h.inhparent and p.indrelid = parent
         where i.indrelid = leaf.leaf and i.indisvalid and i.indisready;
        if found_indexes <> indexes then
            raise exception 'partition % is expected to have % valid indexes of its parent, found %', leaf.name, indexes, found_indexes using hint = try_again;
        end if;
    end loop;
    for leaf in select p.leaf from comporta.partitions(parent) p where p.is_default loop
        execute format('select count(*) from only %s where %s', leaf.leaf, comporta.inside(key, make_date(first_year, 1, 1), make_date(last_year + 1, 1, 1)))
           into left_over;
        if left_over > 0 then
            raise exception 'the default partition is expected to hold no row of the years % to %, found %', first_year, last_year, left_over using hint = try_again;
        end if;
    end loop;
    if to_regnamespace('comporta_opt4') is not null
       or exists (select from pg_catalog.pg_constraint c join pg_catalog.pg_inherits i on i.inhrelid = c.conrelid
                   where i.inhparent = parent and c.conname = 'comporta_opt4_bound') then
        raise exception 'OPT4 is half in place: expected no schema comporta_opt4 and no check comporta_opt4_bound, found one' using hint = try_again;
    end if;
end
$$;

do $$
declare
    job jsonb := comporta.detail('OPT4', 'job');
    scheduled record;
begin
    if to_regclass('cron.job') is null or current_setting('cron.database_name', true) is distinct from current_database() then
        raise notice 'pg_cron is not in this database: the daily call must come from elsewhere';
        return;
    end if;
    select j.command, j.active, j.database into scheduled from cron.job j
     where j.jobname = 'comporta_opt4_ensure_partitions' and j.username = job ->> 'owner';
    if scheduled.command is distinct from 'call catalogue.ensure_geometrias_partitions()' or not scheduled.active or scheduled.database <> current_database() then
        raise exception 'cron job comporta_opt4_ensure_partitions is expected active in database % with "call catalogue.ensure_geometrias_partitions()", found %',
            current_database(), case when scheduled.command is null then 'none' else format('"%s" in %s, active = %s', scheduled.command, scheduled.database, scheduled.active) end
            using hint = 'Run the apply script of OPT4 again.';
    end if;
end
$$;

-- A row of 2030 lands in its partition. RETURNING fails on purpose, naming the partition: the row is there by then and the
-- triggers that would record an edit, and draw from its sequence, are not yet due. The id is given, so no sequence moves.
do $$
declare
    parent regclass := comporta.stored_in('catalogue.geometrias');
    expected regclass := (select p.leaf from comporta.partitions(parent) p where p.low <= '2030-01-01' and p.high >= '2031-01-01');
    landed text;
begin
    begin
        execute format($insert$
            insert into %s (id, layer, name, geom, data_referencia)
            values (-9223372036854775807, 'opt4', 'OPT4 verification', 'SRID=4326;MULTIPOLYGON(((0 0,0 1,1 1,0 0)))'::public.geometry, date '2030-06-15')
            returning ('partition ' || tableoid)::integer $insert$, parent);
    exception when invalid_text_representation then
        landed := substring(sqlerrm from 'partition (\d+)');
    end;
    if landed::oid::regclass is distinct from expected or expected is null then
        raise exception 'a row of 2030 is expected to land in %, found it in %', coalesce(expected::text, 'a partition of its own'),
            coalesce(landed::oid::regclass::text, 'no partition') using hint = 'Run the apply script of OPT4 again.';
    end if;
end
$$;
