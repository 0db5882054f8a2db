-- Purpose:     puts the former catalogue.rpc_search back and removes everything that OPT3 made. OPT1, OPT2 and OPT4 may stay.
-- Requires:    sql/support; OPT5 rolled back. Membership in the owner of catalogue.geometrias.
-- Locks:       ACCESS EXCLUSIVE on every table that carries OPT3's triggers (comporta.with_lock: 30 ms a try), some ms, to drop them;
--              ACCESS EXCLUSIVE on the view and the changes, which nobody reads any more. No row is read or written.
-- Transaction: no; a kill at any statement is safe, run the script again. Without OPT3 it does nothing.

select comporta.claim('OPT3');

do $$
begin
    if to_regprocedure('catalogue.refresh_search_job()') is not null then
        raise exception 'ROLLBACK_OPT3 found OPT5 in place (catalogue.refresh_search_job). Nothing was changed.'
            using hint = 'Run ROLLBACK_OPT5_mv_refresh_scheduling_cron.sql first.';
    end if;
    if to_regprocedure('catalogue.search_page(text, public.geometry, date, date, integer)') is not null and not comporta.done('OPT3', 'former') then
        raise exception 'ROLLBACK_OPT3 found OPT3 in place, but not the definition of rpc_search that it saved in comporta.step. Nothing was changed.'
            using hint = 'Restore that row (change OPT3, step former), or put the former function back by hand and drop catalogue.search_page.';
    end if;
end
$$;

-- Owner, grants, comment and OID stay: CREATE OR REPLACE touches the definition only, with its settings and labels.
do $$
declare
    searcher regprocedure := to_regprocedure('catalogue.rpc_search(text, public.geometry, date, date, integer)');
    former text := comporta.detail('OPT3', 'former') ->> 'definition';
    applied text := comporta.detail('OPT3', 'applied') ->> 'definition';
    found_now text := pg_get_functiondef(searcher);
begin
    if former is null or comporta.done('OPT3', 'restored') then
        return;
    end if;
    if applied is not null and found_now is distinct from applied and found_now is distinct from former then
        raise warning 'rpc_search was changed after OPT3 was applied; the former definition replaces this one: %', found_now;
    end if;
    perform comporta.mark('OPT3', 'restored');
    perform set_config('search_path', 'pg_catalog', true);
    perform set_config('role', (select pg_get_userbyid(proowner) from pg_proc where oid = searcher), true);
    -- Unless pg_trgm is loaded, only a superuser may name its setting.
    perform public.similarity('', '');
    execute former;
end
$$;

-- Searches that began with OPT3's body still read the view: wait for them, holding nothing, half a minute at most.
do $$
declare
    restored timestamptz := clock_timestamp();
    running integer;
begin
    for attempt in 1 .. 300 loop
        perform pg_stat_clear_snapshot();
        select count(*) into running from pg_stat_activity
         where datname = current_database() and backend_type in ('client backend', 'parallel worker')
           and state in ('active', 'fastpath function call') and query_start < restored and pid <> pg_backend_pid();
        exit when running = 0;
        commit;
        perform pg_sleep(0.1);
    end loop;
    if running > 0 then
        raise notice '% statement(s) older than the restored rpc_search still run; one that searches now will fail', running;
    end if;
end
$$;

-- A refresh that somebody started by hand: wait for it, rather than queue for its locks.
do $$
begin
    for attempt in 1 .. 3000 loop
        exit when pg_try_advisory_xact_lock(hashtext('comporta'), hashtext('refresh_search'));
        commit;
        perform pg_sleep(0.1);
    end loop;
end
$$;

-- Wherever another change has taken the triggers: known by their function, not by their table.
do $$
declare
    carrier record;
    note oid := to_regprocedure('catalogue.search_note()');
begin
    for carrier in
        select t.tgrelid::regclass::text as relation,
               string_agg(format('drop trigger if exists %I on %s', t.tgname, t.tgrelid::regclass), '; ') as body
        from pg_trigger t
        where t.tgfoid = note and t.tgparentid = 0
        group by t.tgrelid
    loop
        call comporta.with_lock(array[carrier.relation], carrier.body);
    end loop;
end
$$;

-- LOCK TABLE refuses materialized views; the drops themselves wait within the same budget.
call comporta.with_lock('{}'::text[], 'drop materialized view if exists catalogue.search_names; drop table if exists catalogue.search_delta');

drop function if exists catalogue.search_page(text, public.geometry, date, date, integer);
drop function if exists catalogue.search_candidates(text, public.geometry, date, date, bigint, bigint);
drop function if exists catalogue.search_matches_80(text, public.geometry, date, date, bigint, bigint);
drop function if exists catalogue.search_matches_60(text, public.geometry, date, date, bigint, bigint);
drop function if exists catalogue.search_matches_45(text, public.geometry, date, date, bigint, bigint);
drop function if exists catalogue.search_matches(text, public.geometry, date, date, bigint, bigint, boolean);
drop procedure if exists catalogue.refresh_search(boolean, jsonb);
drop function if exists catalogue.search_source();
drop function if exists catalogue.search_note();
drop function if exists catalogue.search_normal(text);

select comporta.forget('OPT3');
select comporta.release('OPT3');
