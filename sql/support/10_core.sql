-- Purpose:     what every change script shares: progress marks, the one-runner claim, and locks that never queue for long.
-- Requires:    CREATE on the database. Installed before any change; installing again is harmless.
-- Locks:       none on user tables.
-- Transaction: yes, but may also run statement by statement.
--
-- The schema "comporta" is the only one that the fingerprint leaves out.

create schema if not exists comporta;
comment on schema comporta is 'Progress and helpers of the change scripts. Not part of the catalogue.';

create table if not exists comporta.step (
    change  text not null,
    step    text not null,
    detail  jsonb not null default '{}'::jsonb,
    done_at timestamptz not null default clock_timestamp(),
    primary key (change, step)
);
comment on table comporta.step is 'What a change has finished. A script asks here before each part, so a second run continues.';

create or replace function comporta.done(change text, step text) returns boolean
    language sql stable set search_path = pg_catalog
as $$ select exists (select from comporta.step s where s.change = $1 and s.step = $2) $$;

create or replace function comporta.mark(change text, step text, detail jsonb default '{}'::jsonb) returns void
    language sql set search_path = pg_catalog
as $$
    insert into comporta.step (change, step, detail) values ($1, $2, $3)
    on conflict on constraint step_pkey do update set detail = excluded.detail, done_at = clock_timestamp()
$$;

create or replace function comporta.detail(change text, step text) returns jsonb
    language sql stable set search_path = pg_catalog
as $$ select s.detail from comporta.step s where s.change = $1 and s.step = $2 $$;

create or replace function comporta.forget(change text, step text default null) returns void
    language sql set search_path = pg_catalog
as $$ delete from comporta.step s where s.change = $1 and ($2 is null or s.step = $2) $$;

-- Two runners never overlap: the claim is a session lock, so a killed runner gives it back by itself.
create or replace function comporta.claim(change text) returns void
    language plpgsql set search_path = pg_catalog
as $$
declare
    holder text;
begin
    -- A snapshot older than a lock would hide rows from the copy made under it, whatever this database's default is.
    perform set_config('default_transaction_isolation', 'read committed', false);
    if pg_try_advisory_lock(hashtext('comporta'), hashtext('change')) then
        return;
    end if;
    select format('pid %s (%s, since %s)', a.pid, coalesce(nullif(a.application_name, ''), 'no name'), a.backend_start)
      into holder
      from pg_locks l join pg_stat_activity a on a.pid = l.pid
     where l.locktype = 'advisory' and l.granted and l.objsubid = 2
       and l.database = (select oid from pg_database where datname = current_database())
       and l.classid = (hashtext('comporta')::bigint & 4294967295)::oid
       and l.objid = (hashtext('change')::bigint & 4294967295)::oid
     limit 1;
    raise exception '% cannot start: another change is running as %', change, coalesce(holder, 'a session that just ended')
        using errcode = 'lock_not_available',
              hint = 'Wait for it, or cancel that backend with pg_cancel_backend; nothing was changed.';
end
$$;

create or replace function comporta.release(change text) returns void
    language sql set search_path = pg_catalog
as $$ select pg_advisory_unlock(hashtext('comporta'), hashtext('change')) $$;

-- Takes the locks, runs the body and commits, all within one short transaction; gives up quickly and tries again.
-- A waiting ACCESS EXCLUSIVE request makes every later reader wait behind it, so the whole wait for all the
-- relations together is bounded by budget_ms; between tries nothing is held and traffic flows. The first of several
-- relations is held while the last is waited for, so the budget is part of the longest hold: short, with many tries.
-- Must be called outside a transaction block. Give the busiest relation last.
create or replace procedure comporta.with_lock(
    relations text[],
    body text,
    lock_mode text default 'access exclusive',
    budget_ms integer default 30,
    max_tries integer default 400
)
    language plpgsql
as $$
declare
    relation text;
    started timestamptz;
    remaining integer;
    finished boolean := false;
    blockers text;
begin
    for attempt in 1 .. max_tries loop
        begin
            started := clock_timestamp();
            foreach relation in array relations loop
                remaining := greatest(5, budget_ms - (extract(epoch from clock_timestamp() - started) * 1000)::integer);
                perform set_config('lock_timeout', remaining::text, true);
                execute format('lock table %s in %s mode', relation::regclass, lock_mode);
            end loop;
            remaining := greatest(5, budget_ms - (extract(epoch from clock_timestamp() - started) * 1000)::integer);
            perform set_config('lock_timeout', remaining::text, true);
            execute body;
            finished := true;
        exception
            when lock_not_available or deadlock_detected then
                finished := false;
        end;
        commit;
        exit when finished;
        if attempt in (10, 50, 100, 200) then
            select string_agg(distinct format('pid %s (%s, %s)', a.pid, coalesce(nullif(a.application_name, ''), 'no name'), a.state), ', ')
              into blockers
              from pg_locks l join pg_stat_activity a on a.pid = l.pid
             where l.relation = any (relations::regclass[]) and l.granted and l.pid <> pg_backend_pid();
            raise notice 'still waiting for % after % tries; in the way: %', relations, attempt, coalesce(blockers, 'nobody now');
        end if;
        perform pg_sleep(least(0.5, 0.02 * attempt) * (0.5 + random()));
    end loop;
    if not finished then
        select string_agg(distinct format('pid %s (%s, %s, transaction since %s)', a.pid, coalesce(nullif(a.application_name, ''), 'no name'), a.state, a.xact_start), ', ')
          into blockers
          from pg_locks l join pg_stat_activity a on a.pid = l.pid
         where l.relation = any (relations::regclass[]) and l.granted and l.pid <> pg_backend_pid();
        raise exception 'could not lock % in % mode: % tries of % ms each; in the way: %',
                relations, lock_mode, max_tries, budget_ms, coalesce(blockers, 'nobody now')
            using errcode = 'lock_not_available',
                  hint = 'End those transactions and run this script again; it continues where it stopped.';
    end if;
end
$$;

-- The table that stores the rows of a name. A change that puts a view or another table in its place records it here;
-- every other change asks instead of assuming, so that changes can be applied and rolled back beside each other.
create table if not exists comporta.storage (
    name     text primary key,
    stored_in regclass not null,
    by_change text not null
);

create or replace function comporta.stored_in(name text) returns regclass
    language sql stable set search_path = pg_catalog
as $$ select coalesce((select s.stored_in from comporta.storage s where s.name = $1), $1::regclass) $$;
comment on function comporta.stored_in(text) is 'The relation that holds the rows of NAME now (a table, or a partitioned parent), whatever stands under NAME.';
