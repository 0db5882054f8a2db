-- Purpose:     fails unless OPT3 is wholly in place and rpc_search answers exactly as reading every row does, as the owner and as each
--              role that may call it.
-- Requires:    OPT3. Membership in the owner of catalogue.geometrias; answers of a role are compared if the session may become that role.
-- Locks:       ACCESS SHARE only; reads every row of geometrias some ten times.
-- Transaction: either. Changes nothing.

do $$
declare
    stored regclass := comporta.stored_in('catalogue.geometrias');
    missing text;
    found text;
begin
    select string_agg(wanted, ', ') into missing from unnest(array[
        'catalogue.search_normal(text)', 'catalogue.search_note()', 'catalogue.search_source()', 'catalogue.refresh_search(boolean, jsonb)',
        'catalogue.search_matches(text, public.geometry, date, date, bigint, bigint, boolean)', 'catalogue.search_matches_80(text, public.geometry, date, date, bigint, bigint)',
        'catalogue.search_matches_60(text, public.geometry, date, date, bigint, bigint)', 'catalogue.search_matches_45(text, public.geometry, date, date, bigint, bigint)',
        'catalogue.search_candidates(text, public.geometry, date, date, bigint, bigint)',
        'catalogue.search_page(text, public.geometry, date, date, integer)']) wanted
     where to_regprocedure(wanted) is null;
    if missing is not null then
        raise exception 'OPT3 is not in place: expected %, found none', missing
            using hint = 'Run sql/apply/OPT3_indexed_views_rpc_search.sql; it continues where it stopped.';
    end if;
    if to_regclass('catalogue.search_names') is null or to_regclass('catalogue.search_delta') is null then
        raise exception 'OPT3 is not in place: expected catalogue.search_names and catalogue.search_delta, found %, %',
            coalesce(to_regclass('catalogue.search_names')::text, 'none'), coalesce(to_regclass('catalogue.search_delta')::text, 'none')
            using hint = 'Run sql/apply/OPT3_indexed_views_rpc_search.sql; it continues where it stopped.';
    end if;
    if not (select relispopulated from pg_class where oid = 'catalogue.search_names'::regclass) then
        raise exception 'OPT3 is half in place: catalogue.search_names was never filled'
            using hint = 'Run sql/apply/OPT3_indexed_views_rpc_search.sql; it continues where it stopped.';
    end if;
    -- Without a valid unique index without expression or condition, no concurrent refresh.
    select string_agg(wanted, ', ') into missing from unnest(array['btree unique', 'gin', 'gist']) wanted
     where not exists (
        select from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
         where i.indrelid = 'catalogue.search_names'::regclass and i.indisvalid and i.indisready and i.indisunique = (wanted = 'btree unique')
           and m.amname = split_part(wanted, ' ', 1) and i.indpred is null and i.indexprs is null);
    if missing is not null then
        raise exception 'OPT3 is half in place: expected valid indexes on catalogue.search_names, lacks %', missing
            using hint = 'Run sql/apply/OPT3_indexed_views_rpc_search.sql; it continues where it stopped.';
    end if;
    select coalesce(string_agg(format('%s (%s)', t.tgname, t.tgenabled), ', '), 'none') into found
      from pg_trigger t where t.tgrelid = stored and t.tgfoid = 'catalogue.search_note()'::regprocedure;
    if (select count(*) from pg_trigger t where t.tgrelid = stored and t.tgfoid = 'catalogue.search_note()'::regprocedure and t.tgenabled in ('O', 'A')) <> 2 then
        raise exception 'OPT3 is not safe: expected two enabled triggers on % that keep search_delta, found %', stored, found
            using hint = 'Run sql/apply/OPT3_indexed_views_rpc_search.sql, then call catalogue.refresh_search(): writes may have gone unnoticed.';
    end if;
    if (select prosrc from pg_proc where oid = 'catalogue.rpc_search(text, public.geometry, date, date, integer)'::regprocedure) not like '%catalogue.search_page(%' then
        raise exception 'OPT3 is half in place: rpc_search still has its former body'
            using hint = 'Run sql/apply/OPT3_indexed_views_rpc_search.sql; it continues where it stopped.';
    end if;
    select string_agg(format('%s on %s', pg_get_userbyid(a.grantee), c.relname), ', ') into found
      from pg_class c, aclexplode(c.relacl) a
     where c.oid in ('catalogue.search_names'::regclass, 'catalogue.search_delta'::regclass) and a.grantee <> c.relowner;
    if found is not null then
        raise exception 'OPT3 is not safe: only the owner may read what row level security cannot guard, found grants to %', found;
    end if;
    select string_agg(pg_get_userbyid(a.grantee), ', ') into found
      from pg_proc p, aclexplode(p.proacl) a
     where p.oid = 'catalogue.rpc_search(text, public.geometry, date, date, integer)'::regprocedure and a.grantee not in (0, p.proowner)
       and not (has_function_privilege(a.grantee, 'catalogue.search_page(text, public.geometry, date, date, integer)', 'execute')
                and has_function_privilege(a.grantee, 'catalogue.search_candidates(text, public.geometry, date, date, bigint, bigint)', 'execute'));
    if found is not null then
        raise exception 'OPT3 is not safe: % may call rpc_search, but not what it calls', found
            using hint = 'The grant came after OPT3; run sql/apply/OPT3_indexed_views_rpc_search.sql again.';
    end if;
end
$$;

-- Both answers come from one statement, so from one snapshot, whatever writers do meanwhile.
do $$
declare
    searcher regprocedure := 'catalogue.rpc_search(text, public.geometry, date, date, integer)'::regprocedure;
    names text[];
    boxes public.geometry[];
    caller name;
    sample integer;
    answers text[];
    expected text[];
    compared integer := 0;
begin
    select array_agg(s.name), array_agg(s.geom) into names, boxes
      from (select g.name, g.geom from catalogue.geometrias g order by g.id limit 2) s;
    names := names || array['zzz no such name zzz'];
    perform set_config('pg_trgm.similarity_threshold', '0.3', true)
      from pg_proc where oid = searcher and proconfig::text like '%pg_trgm.similarity_threshold=0.3%';
    for caller in
        select pg_get_userbyid(proowner) from pg_proc where oid = searcher
        union
        select pg_get_userbyid(a.grantee) from pg_proc p, aclexplode(p.proacl) a where p.oid = searcher and a.grantee <> 0
    loop
        continue when not pg_has_role(current_user, caller, 'member')
            or not has_table_privilege(caller, 'catalogue.geometrias', 'select');
        -- Reading every row is what makes this slow: the owner answers for every search, the others for the first.
        for sample in 1 .. case when caller = (select pg_get_userbyid(proowner) from pg_proc where oid = searcher) then cardinality(names) else 1 end loop
            perform set_config('role', caller, true);
            select array(select r::text from catalogue.rpc_search(names[sample], case when sample = 2 then boxes[2] end, null, null, 40) r),
                   array(select f::text from (
                        select g.id, g.layer, g.name, g.data_referencia,
                               public.similarity(lower(public.unaccent(g.name)), lower(public.unaccent(names[sample]))) as similarity
                        from catalogue.geometrias g
                        where lower(public.unaccent(g.name)) operator(public.%) lower(public.unaccent(names[sample]))
                          and (sample <> 2 or g.geom operator(public.&&) boxes[2])
                        order by 5 desc, 1
                        limit 40) f)
              into answers, expected;
            perform set_config('role', 'none', true);
            if answers is distinct from expected then
                raise exception 'OPT3 answers wrongly: rpc_search(%) as % gave % row(s), reading every row gives %; first that differs: % instead of %',
                    quote_literal(names[sample]), caller, cardinality(answers), cardinality(expected),
                    (select coalesce(answers[n], 'nothing') from generate_series(1, 40) n where answers[n] is distinct from expected[n] limit 1),
                    (select coalesce(expected[n], 'nothing') from generate_series(1, 40) n where answers[n] is distinct from expected[n] limit 1)
                    using hint = 'call catalogue.refresh_search(), verify again; if it differs still, roll OPT3 back.';
            end if;
            compared := compared + 1;
        end loop;
    end loop;
    if compared = 0 then
        raise exception 'OPT3 could not be verified: this session may become none of the roles that call rpc_search';
    end if;
end
$$;
