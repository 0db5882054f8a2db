-- Purpose:     cold rows of catalogue.geometrias move from the row store to a columnar layout, read and written through
--              the same name: a view over the hot table (comporta_opt2.geometrias) and packed chunks (comporta_opt2_cold).
--              What is cold and how it is packed stands in one place: comporta.cold_settings() in sql/support/30_chunks.sql.
-- Requires:    OPT1; sql/support; superuser (thawing a row must not fire the catalogue's triggers: session_replication_role);
--              a primary key (one column, data_referencia); no foreign key, materialized view or atomic function on the table.
-- Locks:       ACCESS EXCLUSIVE through comporta.with_lock (30 ms a try): once on geometrias and its views while the name
--              changes hands (some 10 ms); once a leaf on leaf, hot table, default leaf and layers (10..40 ms). SHARE ROW
--              EXCLUSIVE on a leaf for some ms (change log). Copying takes the locks of ordinary reads.
-- Transaction: no. Run again after a kill at any point, it continues.

select comporta.claim('OPT2');

do $$
begin
    if comporta.done('OPT2', 'rolling back') then
        raise exception 'a rollback of OPT2 was begun and not finished'
            using errcode = 'object_not_in_prerequisite_state', hint = 'Run ROLLBACK_OPT2_columnar_storage_gis.sql to its end first; nothing was changed.';
    end if;
    if not comporta.done('OPT2', 'view') then
        perform comporta.cold_refuse_unless_fit('catalogue.geometrias'::regclass);
    end if;
end
$$;

do $$
begin
    if not comporta.done('OPT2', 'view') then
        perform comporta.cold_prepare('catalogue.geometrias'::regclass, 'catalogue.geometrias');
    end if;
end
$$;

-- The name becomes a view; all rows are still hot.
do $$
begin
    if not comporta.done('OPT2', 'view') then
        call comporta.with_lock(comporta.swap_locks('catalogue.geometrias'::regclass),
                                'select comporta.cold_swap_in(); select comporta.mark(''OPT2'', ''view'')', budget_ms => 30);
    end if;
end
$$;

select comporta.cold_make_readers(comporta.stored_in('catalogue.geometrias'), array['layer', 'data_referencia']);

create or replace function catalogue.rpc_geometrias_historico(bbox public.geometry, from_date date, to_date date) returns setof catalogue.geometrias
    language sql stable parallel safe
as $$
    select g.*
    from comporta_opt2.geometrias g
    where (bbox is null or g.geom operator(public.&&) bbox)
      and (from_date is null or g.data_referencia >= from_date)
      and (to_date is null or g.data_referencia < to_date)
    union all
    select c.id, c.layer, c.name, c.geom, c.properties, c.data_referencia, c.restricted, c.created_at, c.updated_at
    from comporta_opt2.cold_rows c
    where c.chunk = any (array(select unnest(comporta_opt2.chunks_in(bbox, from_date, to_date))))
      and (bbox is null or c.geom operator(public.&&) bbox)
      and (from_date is null or c.data_referencia >= from_date)
      and (to_date is null or c.data_referencia < to_date)
$$;
comment on function catalogue.rpc_geometrias_historico(public.geometry, date, date)
    is 'Geometries whose box meets BBOX and whose day is in [from_date, to_date), as the caller; skips chunks that cannot hold any.';

create or replace function catalogue.rpc_geometrias_resumo(from_date date, to_date date) returns table (layer text, year integer, geometrias bigint)
    language sql stable parallel safe
as $$
    select s.layer, s.year, sum(s.geometrias)::bigint
    from (
        select g.layer, extract(year from g.data_referencia)::integer as year, count(*) as geometrias
        from comporta_opt2.geometrias g
        where (from_date is null or g.data_referencia >= from_date) and (to_date is null or g.data_referencia < to_date)
        group by 1, 2
        union all
        select c.layer, extract(year from c.data_referencia)::integer, count(*)
        from comporta_opt2.cold_arrays c
        where (from_date is null or (c.data_referencia >= from_date and c.last_date >= from_date))
          and (to_date is null or (c.data_referencia < to_date and c.first_date < to_date))
        group by 1, 2
    ) s
    group by 1, 2
    order by 1, 2
$$;
comment on function catalogue.rpc_geometrias_resumo(date, date)
    is 'How many geometries of each layer and year in [from_date, to_date), as the caller; of cold rows only the arrays needed are read.';

-- Open to those who may read geometrias, closed to everybody else.
do $$
declare
    routine text;
    entry record;
begin
    foreach routine in array array['catalogue.rpc_geometrias_historico(public.geometry, date, date)', 'catalogue.rpc_geometrias_resumo(date, date)',
                                   'comporta_opt2.chunks_in(public.geometry, date, date)'] loop
        execute format('alter function %s owner to %I', routine, (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = comporta.stored_in('catalogue.geometrias')));
        execute format('revoke all on function %s from public', routine);
        for entry in
            select distinct case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as name
            from pg_class c, aclexplode(c.relacl) a
            where c.oid = comporta.stored_in('catalogue.geometrias') and a.privilege_type = 'SELECT'
        loop
            execute format('grant execute on function %s to %s', routine, entry.name);
        end loop;
    end loop;
end
$$;

do $$
declare
    next_leaf text;
begin
    perform comporta.cold_plan();
    commit;
    for next_leaf in select l.name from comporta_opt2_cold.leaf l order by l.high loop
        call comporta.cold_pack(next_leaf);
        call comporta.cold_cut_over(next_leaf);
        call comporta.cold_settle(next_leaf);
    end loop;
end
$$;

analyze comporta_opt2_cold.cold;

select comporta.mark('OPT2', 'applied');

select comporta.release('OPT2');
