-- Purpose:     makes a clone's catalogue so many times as large as it stands: geometries, annotations, inspections and edits in
--              proportion, each new row like one that is there, its outline moved, turned and scaled a little.
-- Requires:    a clone, never the target; no change stands on it; superuser (triggers and keys sleep meanwhile);
--              setting comporta.capacity_times: '2' doubles, '1.5' adds half; below 1 the newest rows are taken away.
-- Locks:       ACCESS EXCLUSIVE on the catalogue's tables until it is done.
-- Transaction: no for VACUUM, the last statement; the rest is one statement, done or not.

do $$
declare
    times constant double precision := nullif(current_setting('comporta.capacity_times', true), '');
    tables constant regclass[] := array['catalogue.geometrias', 'catalogue.annotations', 'catalogue.inspections', 'catalogue.edits']::regclass[];
    standing text;
    relation regclass;
    aside record;
    rows_now bigint;
    highest bigint;
    nth integer;
begin
    if times is null or not times > 0 or times > 1000 then
        raise exception 'grow.sql expects a number above 0 in comporta.capacity_times, found %', coalesce(times::text, 'none')
            using errcode = 'invalid_parameter_value', hint = 'set comporta.capacity_times = ''2''; nothing was changed.';
    end if;
    if to_regclass('comporta.step') is not null then
        select string_agg(distinct s.change, ', ') into standing from comporta.step s;
    end if;
    if standing is not null or exists (select from pg_class c where c.oid = 'catalogue.geometrias'::regclass and c.relkind <> 'r') then
        raise exception 'grow.sql expects a clone on which no change stands, found %', coalesce(standing, 'catalogue.geometrias that is no plain table')
            using errcode = 'object_not_in_prerequisite_state', hint = 'Reset the clone first; nothing was changed.';
    end if;
    if times = 1 then
        return;
    end if;
    perform set_config('session_replication_role', 'replica', true), set_config('jit', 'off', true),
            set_config('work_mem', '256MB', true), set_config('maintenance_work_mem', '512MB', true),
            set_config('synchronous_commit', 'off', true), set_config('max_parallel_maintenance_workers', '0', true);
    foreach relation in array tables loop
        execute format('lock table %s in access exclusive mode', relation);
    end loop;

    -- Indexes are set aside and built once over all the rows: several times faster than to keep them up to date.
    create temporary table set_aside on commit drop as
        select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition, obj_description(i.indexrelid, 'pg_class') as comment
        from pg_index i
        where i.indrelid = any (tables) and not i.indisunique and not i.indisreplident and not i.indisclustered;
    for aside in select * from set_aside loop
        execute format('drop index %s', aside.name);
    end loop;

    select count(*), coalesce(max(g.id), 0) into rows_now, highest from catalogue.geometrias g;
    if times > 1 then
        -- Each row as often as is whole in times - 1, and once more by chance for the rest; new ids follow the highest.
        create temporary table twin on commit drop as
            select g.id, highest + row_number() over (order by n.n, g.id) as new_id, n.n
            from catalogue.geometrias g
            cross join generate_series(1, ceil(times - 1)::integer) n (n)
            where n.n <= times - 1 or ((hashint8extended(g.id, n.n) >> 11) & 9007199254740991) / 9007199254740992.0 < times - floor(times);
        analyze twin;
        -- One copy after the other, in the order in which the rows lie: ids ascend without a sort of whole rows.
        for nth in 1..ceil(times - 1)::integer loop
            insert into catalogue.geometrias (id, layer, name, geom, properties, data_referencia, restricted, created_at, updated_at)
            select t.new_id,
                   g.layer,
                   case when g.name ~ '\d$' then regexp_replace(g.name, '\d+$', (1 + d.roll1 * 400)::integer::text) else g.name end,
                   public.st_affine(g.geom, a.cosine, -a.sine, a.sine, a.cosine,
                                    c.x - a.cosine * c.x + a.sine * c.y + (d.roll2 - 0.5) * 0.8, c.y - a.sine * c.x - a.cosine * c.y + (d.roll3 - 0.5) * 0.8),
                   case when g.properties ? 'codigo'
                        then g.properties || jsonb_build_object('codigo', regexp_replace(g.properties ->> 'codigo', '\d+$', lpad(t.new_id::text, 9, '0')))
                        else g.properties end,
                   g.data_referencia, g.restricted, g.created_at, g.updated_at
            from twin t
            join catalogue.geometrias g using (id)
            cross join lateral (select (hashint8extended(t.new_id, 1) & 1048575) / 1048576.0::double precision,
                                       (hashint8extended(t.new_id, 2) & 1048575) / 1048576.0::double precision,
                                       (hashint8extended(t.new_id, 3) & 1048575) / 1048576.0::double precision) d (roll1, roll2, roll3)
            cross join lateral (select (0.85 + 0.3 * d.roll1) * cos(0.6 * (d.roll2 - 0.5)), (0.85 + 0.3 * d.roll1) * sin(0.6 * (d.roll2 - 0.5))) a (cosine, sine)
            cross join lateral (select (public.st_xmin(g.geom) + public.st_xmax(g.geom)) / 2, (public.st_ymin(g.geom) + public.st_ymax(g.geom)) / 2) c (x, y)
            where t.n = nth;
        end loop;
        insert into catalogue.annotations (geometria_id, author, body, created_at)
            select t.new_id, a.author, a.body, a.created_at from twin t join catalogue.annotations a on a.geometria_id = t.id order by t.new_id, a.id;
        insert into catalogue.inspections (geometria_id, inspected_on, outcome)
            select t.new_id, i.inspected_on, i.outcome from twin t join catalogue.inspections i on i.geometria_id = t.id order by t.new_id, i.id;
        insert into catalogue.edits (geometria_id, action, edited_at, edited_by)
            select t.new_id, e.action, e.edited_at, e.edited_by from twin t join catalogue.edits e on e.geometria_id = t.id order by e.edited_at, t.new_id;
    else
        select max(k.id) into highest
          from (select g.id from catalogue.geometrias g order by g.id limit greatest(1, round(rows_now * times))) k;
        delete from catalogue.annotations a where a.geometria_id > highest;
        delete from catalogue.inspections i where i.geometria_id > highest;
        delete from catalogue.edits e where e.geometria_id > highest;
        delete from catalogue.geometrias g where g.id > highest;
        -- A rewrite, or the table would keep its size; CLUSTER, as VACUUM FULL refuses a transaction.
        foreach relation in array tables loop
            execute format('cluster %s using %I', relation, (select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
                                                              where i.indrelid = relation and i.indisprimary));
            execute format('alter table %s set without cluster', relation);
        end loop;
    end if;
    perform setval(pg_get_serial_sequence('catalogue.geometrias', 'id'), max(g.id)) from catalogue.geometrias g;

    for aside in select * from set_aside order by name loop
        execute aside.definition;
        if aside.comment is not null then
            execute format('comment on index %s is %L', aside.name, aside.comment);
        end if;
    end loop;
end
$$;

vacuum (analyze) catalogue.geometrias, catalogue.annotations, catalogue.inspections, catalogue.edits;
