-- Purpose:     catalogue.rpc_search answers from an indexed materialized view and a table of recent changes, instead of reading
--              every row. Same signature, same rows in the same order for every caller, never stale.
-- Requires:    sql/support. Membership in the owner of catalogue.geometrias; pg_trgm, unaccent and PostGIS in schema public.
--              Runs with or without OPT1 and OPT2.
-- Locks:       SHARE ROW EXCLUSIVE on the table that stores geometrias (comporta.with_lock: 30 ms a try), some ms, for two triggers.
--              ACCESS SHARE on it while the view is filled: reads and writes go on. Everything else is taken on new objects.
-- Transaction: no; a kill at any statement is safe, run the script again.
--
-- Who reads what. Nobody but the owner reads the view or the changes, since neither can carry row level security.
-- search_candidates (security definer) names the next best ids, search_page joins them to the table as the caller and asks for
-- more until enough rows are visible. The ids of hidden rows would be an oracle for their names, so search_candidates
-- answers to search_page only.

select comporta.claim('OPT3');

do $$
declare
    stored regclass := comporta.stored_in('catalogue.geometrias');
    searcher regprocedure := to_regprocedure('catalogue.rpc_search(text, public.geometry, date, date, integer)');
    missing text;
    threshold text;
begin
    if searcher is null then
        raise exception 'OPT3 expects catalogue.rpc_search(text, geometry, date, date, integer); it is not there. Nothing was changed.';
    end if;
    select string_agg(wanted, ', ') into missing
      from unnest(array['id', 'layer', 'name', 'geom', 'data_referencia']) wanted
     where not exists (select from pg_attribute a where a.attrelid = stored and a.attname = wanted and not a.attisdropped);
    if missing is not null then
        raise exception 'OPT3 expects columns % in %; found none. Nothing was changed.', missing, stored;
    end if;
    if exists (select from pg_class c where c.oid in (stored, 'catalogue.geometrias'::regclass) and c.relforcerowsecurity) then
        raise exception 'OPT3 cannot fill its view: row level security is forced on the owner of %. Nothing was changed.', stored
            using hint = 'The view needs every row; ALTER TABLE .. NO FORCE ROW LEVEL SECURITY, or leave OPT3 out.';
    end if;
    select split_part(setting, '=', 2) into threshold
      from pg_proc p, unnest(p.proconfig) setting
     where p.oid = searcher and setting like 'pg\_trgm.similarity\_threshold=%';
    if coalesce(threshold::real, 0.3) <= 0 then
        raise exception 'OPT3 expects a similarity threshold above 0, found %: a trigram index cannot answer that. Nothing was changed.', threshold;
    end if;
end
$$;

-- The former function is the first thing saved: from here on, the rollback knows what to put back.
do $$
begin
    if not comporta.done('OPT3', 'former') then
        perform set_config('search_path', 'pg_catalog', true);
        perform comporta.mark('OPT3', 'former', jsonb_build_object('definition',
            pg_get_functiondef('catalogue.rpc_search(text, public.geometry, date, date, integer)'::regprocedure)));
    end if;
end
$$;

-- New objects belong to the owner of geometrias.
select set_config('role', pg_get_userbyid(c.relowner), false) from pg_class c where c.oid = comporta.stored_in('catalogue.geometrias');

create or replace function catalogue.search_normal(value text) returns text
    language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    -- The dictionary is named, so the answer depends on no setting; its rules change only with the extension.
    return lower(public.unaccent('public.unaccent'::regdictionary, value));
end
$$;
comment on function catalogue.search_normal(text) is 'A name as rpc_search compares it: without accents, in lower case.';
revoke execute on function catalogue.search_normal(text) from public;

create table if not exists catalogue.search_delta (
    seq             bigint generated always as identity,
    id              bigint not null,
    data_referencia date,
    name_normal     text,
    envelope        public.geometry,
    constraint search_delta_pkey primary key (id, seq)
) with (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_scale_factor = 0.0, autovacuum_vacuum_insert_threshold = 20000);
comment on table catalogue.search_delta is 'Rows of geometrias written since the last refresh of search_names, as they were then; the highest seq of an id holds.';

-- Append only: two writers never touch one row here, and a refresh deletes exactly what its own snapshot sees.
create or replace function catalogue.search_note() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    insert into catalogue.search_delta (id, data_referencia, name_normal, envelope)
    values (new.id, new.data_referencia, catalogue.search_normal(new.name), public.st_envelope(new.geom));
    return null;
end
$$;
comment on function catalogue.search_note() is 'Keeps catalogue.search_delta.';
revoke execute on function catalogue.search_note() from public;

-- A string body, resolved when it runs: the view depends on no table, so another change may put a new one under the name.
-- No SET clause and not security definer, so that the planner inlines it and the rows are not spooled.
create or replace function catalogue.search_source()
    returns table (id bigint, data_referencia date, name_normal text, envelope public.geometry)
    language sql stable
as $$
    select g.id, g.data_referencia, catalogue.search_normal(g.name), public.st_envelope(g.geom)
    from catalogue.geometrias g
$$;
comment on function catalogue.search_source() is 'What search_names holds, from whatever stands under the name catalogue.geometrias now.';
revoke execute on function catalogue.search_source() from public;

create materialized view if not exists catalogue.search_names as
    select s.id, s.data_referencia, s.name_normal, s.envelope from catalogue.search_source() s
with no data;
comment on materialized view catalogue.search_names is 'Names as rpc_search compares them. True together with search_delta; holds hidden rows too, so nobody may read it.';

-- Deletes the changes and fills the view in one REPEATABLE READ snapshot: a change that commits later stays in search_delta, and
-- a search sees the old view with the old changes or the new view without them. The table is locked (ACCESS SHARE) before the snapshot is
-- taken: a table swapped in between would be read as it was before its last rows arrived.
create or replace procedure catalogue.refresh_search(force boolean default true, inout outcome jsonb default null)
    language plpgsql
as $$
declare
    -- An advisory key of our own; the same words give the same number everywhere.
    space constant integer := pg_catalog.hashtext('comporta');
    key   constant integer := pg_catalog.hashtext('refresh_search');
    started constant timestamptz := pg_catalog.clock_timestamp();
    as_of timestamptz;
    drained bigint := 0;
    rows_now bigint;
    failure text;
    failure_state text;
begin
    if not pg_catalog.pg_try_advisory_lock(space, key) then
        outcome := pg_catalog.jsonb_build_object('state', 'skipped', 'reason', 'another refresh is running');
        raise notice 'skipped: another refresh is running';
        return;
    end if;
    commit;
    set transaction isolation level repeatable read;
    begin
        lock table catalogue.geometrias in access share mode;
        as_of := pg_catalog.clock_timestamp();
        if not (select c.relispopulated from pg_catalog.pg_class c where c.oid = 'catalogue.search_names'::pg_catalog.regclass)
            or not exists (select from pg_catalog.pg_index i where i.indrelid = 'catalogue.search_names'::pg_catalog.regclass and i.indisunique) then
            -- The first time: nobody reads it yet.
            delete from catalogue.search_delta;
            get diagnostics drained = row_count;
            refresh materialized view catalogue.search_names;
        elsif force or exists (select from catalogue.search_delta) then
            delete from catalogue.search_delta;
            get diagnostics drained = row_count;
            refresh materialized view concurrently catalogue.search_names;
        else
            outcome := pg_catalog.jsonb_build_object('state', 'unchanged');
        end if;
        select pg_catalog.count(*) into rows_now from catalogue.search_names;
        outcome := coalesce(outcome, pg_catalog.jsonb_build_object('state', 'refreshed')) || pg_catalog.jsonb_build_object(
            'as_of', as_of, 'rows', rows_now, 'drained', drained,
            'seconds', pg_catalog.round(extract(epoch from pg_catalog.clock_timestamp() - started)::numeric, 3));
    exception
        when query_canceled or others then
            -- The session lock must not outlive a failure in a session that lives on.
            get stacked diagnostics failure = message_text, failure_state = returned_sqlstate;
    end;
    commit;
    perform pg_catalog.pg_advisory_unlock(space, key);
    if failure is not null then
        raise exception 'refresh of catalogue.search_names failed: %', failure using errcode = failure_state,
            hint = 'Nothing was lost: the changes are still in catalogue.search_delta and searches still read them. Call it again.';
    end if;
end
$$;
comment on procedure catalogue.refresh_search(boolean, jsonb)
    is 'Refreshes search_names concurrently and drops the changes that it then holds. Outside a transaction. FORCE false: only if something changed.';
revoke execute on procedure catalogue.refresh_search(boolean, jsonb) from public;

-- At the threshold in force. Planned for these very arguments: which of the indexes is best depends on them.
create or replace function catalogue.search_matches(
    query_normal text, bbox public.geometry, from_date date, to_date date, skip bigint, take bigint, narrow boolean,
    out ids bigint[], out days date[]
)
    language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    filters constant text :=
           case when bbox is null then '' else ' and %1$s.envelope operator(public.&&) $2' end
        || case when from_date is null then '' else ' and %1$s.data_referencia >= $3' end
        || case when to_date is null then '' else ' and %1$s.data_referencia < $4' end;
begin
    -- In a narrow box the few names are compared one by one: an expression that no index serves keeps the planner from
    -- reading long lists of trigrams for them.
    execute '
        select array_agg(c.id order by c.similarity desc, c.id), array_agg(c.day order by c.similarity desc, c.id)
        from (
            select s.id, s.data_referencia as day, public.similarity(s.name_normal, $1) as similarity
            from catalogue.search_names s
            where ' || case when narrow then '(s.name_normal || '''')' else 's.name_normal' end
                || ' operator(public.%) $1' || format(filters, 's') || '
              and not exists (select from catalogue.search_delta d where d.id = s.id)
            union all
            select d.id, d.data_referencia, public.similarity(d.name_normal, $1)
            from catalogue.search_delta d
            where d.name_normal operator(public.%) $1' || format(filters, 'd') || '
              and not exists (select from catalogue.search_delta n where n.id = d.id and n.seq > d.seq)
            order by similarity desc, id
            offset $5 limit $6
        ) c'
        into ids, days
        using query_normal, bbox, from_date, to_date, skip, take;
end
$$;
comment on function catalogue.search_matches(text, public.geometry, date, date, bigint, bigint, boolean)
    is 'Ids and days of the rows at least as similar as pg_trgm.similarity_threshold, best first, hidden ones too.';
revoke execute on function catalogue.search_matches(text, public.geometry, date, date, bigint, bigint, boolean) from public;

-- The same at a higher threshold, where the index has less to read. A SET clause, since set_config is refused in parallel workers;
-- unless pg_trgm is loaded, only a superuser may name its setting.
do $$
declare
    percent integer;
begin
    perform public.similarity('', '');
    foreach percent in array array[80, 60, 45] loop
        execute format($def$
            create or replace function catalogue.search_matches_%1$s(
                query_normal text, bbox public.geometry, from_date date, to_date date, skip bigint, take bigint,
                out ids bigint[], out days date[]
            )
                language sql stable parallel safe set pg_trgm.similarity_threshold = 0.%1$s
            as 'select m.ids, m.days from catalogue.search_matches($1, $2, $3, $4, $5, $6, false) m'
        $def$, percent);
        execute format('revoke execute on function catalogue.search_matches_%s(text, public.geometry, date, date, bigint, bigint) from public', percent);
    end loop;
end
$$;

create or replace function catalogue.search_candidates(
    query text, bbox public.geometry, from_date date, to_date date, skip bigint, take bigint,
    out ids bigint[], out days date[]
)
    language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
declare
    own constant text := 'catalogue.search_candidates(text,public.geometry,date,date,bigint,bigint)';
    caller constant text := 'catalogue.search_page(text,public.geometry,date,date,integer)';
    query_normal constant text := catalogue.search_normal(query);
    threshold real;
    narrow boolean;
    stack text;
    wanted text;
begin
    -- The second line of the context is the caller. A call from a statement reads 'SQL statement "...', in any language; only
    -- PL/pgSQL evaluating an expression puts its own name there, and nobody else may create a function of that name.
    get diagnostics stack = pg_context;
    wanted := left(split_part(stack, E'\n', 1), strpos(stack, own) - 1) || caller;
    if strpos(stack, own) = 0 or not starts_with(split_part(stack, E'\n', 2), wanted) then
        raise exception 'catalogue.search_candidates answers to catalogue.search_page only'
            using errcode = 'insufficient_privilege', hint = 'Call catalogue.rpc_search.';
    end if;
    threshold := current_setting('pg_trgm.similarity_threshold');
    narrow := bbox is not null and not exists (
        select from catalogue.search_names s where s.envelope operator(public.&&) bbox offset 4000);
    -- When enough rows reach a higher threshold, those are the best ones: whatever lies below comes after them.
    if threshold < 0.8 and take is not null and not narrow then
        select m.ids, m.days into ids, days from catalogue.search_matches_80(query_normal, bbox, from_date, to_date, skip, take) m;
    end if;
    if threshold < 0.6 and not narrow and cardinality(ids) is distinct from take then
        select m.ids, m.days into ids, days from catalogue.search_matches_60(query_normal, bbox, from_date, to_date, skip, take) m;
    end if;
    if threshold < 0.45 and not narrow and cardinality(ids) is distinct from take then
        select m.ids, m.days into ids, days from catalogue.search_matches_45(query_normal, bbox, from_date, to_date, skip, take) m;
    end if;
    if take is null or narrow or cardinality(ids) is distinct from take then
        select m.ids, m.days into ids, days from catalogue.search_matches(query_normal, bbox, from_date, to_date, skip, take, narrow) m;
    end if;
end
$$;
comment on function catalogue.search_candidates(text, public.geometry, date, date, bigint, bigint)
    is 'Ids and days of the rows that match, best first, hidden ones too: answers to search_page only.';
revoke execute on function catalogue.search_candidates(text, public.geometry, date, date, bigint, bigint) from public;

create or replace function catalogue.search_page(query text, bbox public.geometry, from_date date, to_date date, max_rows integer)
    returns table (id bigint, layer text, name text, data_referencia date, similarity real)
    language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    page record;
    skip bigint := 0;
    take bigint := greatest(50, 2 * max_rows::bigint);
    given bigint := 0;
    got bigint;
begin
    if max_rows is null then
        take := null;
    end if;
    loop
        -- An assignment, not a query: search_candidates knows its caller by it.
        page := catalogue.search_candidates(search_page.query, search_page.bbox, search_page.from_date, search_page.to_date, skip, take);
        return query
            select g.id, g.layer, g.name, g.data_referencia,
                   public.similarity(lower(public.unaccent(g.name)), lower(public.unaccent(search_page.query))) as similarity
            from unnest(page.ids, page.days) as c (id, day)
            join catalogue.geometrias g on g.id = c.id and g.data_referencia = c.day
            where lower(public.unaccent(g.name)) operator(public.%) lower(public.unaccent(search_page.query))
              and (search_page.bbox is null or g.geom operator(public.&&) search_page.bbox)
              and (search_page.from_date is null or g.data_referencia >= search_page.from_date)
              and (search_page.to_date is null or g.data_referencia < search_page.to_date)
            order by 5 desc, 1
            limit search_page.max_rows - given;
        get diagnostics got = row_count;
        given := given + got;
        exit when take is null or given >= max_rows or coalesce(cardinality(page.ids), 0) < take;
        -- Many hidden rows: larger pages, and after three of them the rest in one.
        skip := skip + take;
        take := case when skip < 3000 + 2 * max_rows::bigint then 8 * take end;
    end loop;
end
$$;
comment on function catalogue.search_page(text, public.geometry, date, date, integer)
    is 'The body of rpc_search, as the caller: candidates joined to the rows that the caller may see.';
revoke execute on function catalogue.search_page(text, public.geometry, date, date, integer) from public;

-- Default privileges may have opened the new relations to readers.
do $$
declare
    entry record;
begin
    for entry in
        select distinct c.oid::regclass as relation,
               case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
        from pg_class c, aclexplode(c.relacl) a
        where c.oid in ('catalogue.search_delta'::regclass, 'catalogue.search_names'::regclass) and a.grantee <> c.relowner
    loop
        execute format('revoke all on %s from %s', entry.relation, entry.grantee);
    end loop;
end
$$;

reset role;

-- From the commit of the triggers on, every committed write is either in the snapshot that fills the view or in search_delta.
-- The conditions name operators by schema: IS DISTINCT FROM on a geometry could not be restored with an empty search_path.
do $$
declare
    stored regclass := comporta.stored_in('catalogue.geometrias');
begin
    if (select count(*) from pg_trigger t where t.tgrelid = stored and t.tgfoid = 'catalogue.search_note()'::regprocedure) < 2 then
        -- Whatever the view holds, writes may have passed unnoticed.
        perform comporta.forget('OPT3', 'filled');
        call comporta.with_lock(array[stored::text], format($body$
            do $do$
            begin
                if not exists (select from pg_trigger where tgrelid = %1$L::regclass and tgname = 'geometrias_search_insert') then
                    create trigger geometrias_search_insert after insert on %1$s
                        for each row execute function catalogue.search_note();
                end if;
                if not exists (select from pg_trigger where tgrelid = %1$L::regclass and tgname = 'geometrias_search_update') then
                    create trigger geometrias_search_update after update on %1$s
                        for each row when (
                            old.id <> new.id
                            or old.name is distinct from new.name
                            or old.data_referencia is distinct from new.data_referencia
                            or (old.geom operator(public.~=) new.geom) is not true
                        ) execute function catalogue.search_note();
                end if;
            end
            $do$
        $body$, stored), 'share row exclusive');
    end if;
end
$$;

-- Filled before it is indexed: one sort instead of a million insertions.
do $$
declare
    outcome jsonb;
begin
    if not comporta.done('OPT3', 'filled') then
        call catalogue.refresh_search(true, outcome);
        if outcome ->> 'state' <> 'refreshed' then
            raise exception 'catalogue.search_names could not be filled: another session is refreshing it'
                using errcode = 'lock_not_available', hint = 'Wait for it and run this script again.';
        end if;
        perform comporta.mark('OPT3', 'filled', outcome);
    end if;
end
$$;

select set_config('role', pg_get_userbyid(c.relowner), false) from pg_class c where c.oid = 'catalogue.search_names'::regclass;

-- The view is new and nobody reads it yet: plain builds are quicker and lock nobody out.
-- squawk-ignore require-concurrent-index-creation
create unique index if not exists search_names_id_key on catalogue.search_names (id);
-- squawk-ignore require-concurrent-index-creation
create index if not exists search_names_trigram_idx on catalogue.search_names using gin (name_normal public.gin_trgm_ops) with (fastupdate = off);
-- squawk-ignore require-concurrent-index-creation
create index if not exists search_names_envelope_idx on catalogue.search_names using gist (envelope);
analyze catalogue.search_names;

reset role;

-- Only the body changes: language, settings, owner, grants and comment of rpc_search stay, and so does its OID.
do $$
declare
    searcher regprocedure := 'catalogue.rpc_search(text, public.geometry, date, date, integer)'::regprocedure;
    role_name text;
    former text := comporta.detail('OPT3', 'former') ->> 'definition';
begin
    perform comporta.forget('OPT3', 'restored');
    perform set_config('search_path', 'pg_catalog', true);
    perform set_config('role', (select pg_get_userbyid(proowner) from pg_proc where oid = searcher), true);
    for role_name in
        select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
        from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where p.oid = searcher and a.privilege_type = 'EXECUTE' and a.grantee <> p.proowner
    loop
        execute format('grant execute on function catalogue.search_page(text, public.geometry, date, date, integer) to %s', role_name);
        execute format('grant execute on function catalogue.search_candidates(text, public.geometry, date, date, bigint, bigint) to %s', role_name);
    end loop;
    -- Unless pg_trgm is loaded, only a superuser may name its setting.
    perform public.similarity('', '');
    -- All that stands before the body of the former definition, then our body.
    execute regexp_replace(former, E'\nAS \\$function\\$.*$|\n(BEGIN ATOMIC| ?RETURN ).*$', '') || E'\nAS $function$
    select p.id, p.layer, p.name, p.data_referencia, p.similarity
    from catalogue.search_page($1, $2, $3, $4, $5) p
$function$';
end
$$;

select comporta.mark('OPT3', 'applied', jsonb_build_object('definition',
    pg_get_functiondef('catalogue.rpc_search(text, public.geometry, date, date, integer)'::regprocedure)));
select comporta.release('OPT3');
