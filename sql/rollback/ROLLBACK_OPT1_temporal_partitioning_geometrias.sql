-- Purpose:     give catalogue.geometrias back as the plain table that it was, with every row written since.
-- Requires:    sql/support; ownership of the tables; OPT2 and OPT4 rolled back (refused otherwise, by name).
-- Locks:       ACCESS EXCLUSIVE on geometrias, its views and the tables that reference it for some tens of ms (swap back),
--              waited for at most 30 ms at a time and tried again; SHARE UPDATE EXCLUSIVE while keys are validated.
-- Transaction: no, it commits as it goes; killed anywhere, run it again and it continues.
--
-- The original table still has its OID, indexes and statistics. The ids that changed since the swap were logged: their
-- rows are made in the original what they are in the partitioned table, then both change places again. Grants, policies,
-- triggers and keys that were added or dropped since are carried over; a change of columns is refused, by name.

select comporta.claim('OPT1');

-- 1. Refuse what would lose something.
do $$
declare
    item record;
    parent regclass;
begin
    if not comporta.done('OPT1', 'swapped') or comporta.done('OPT1', 'restored') then
        return;
    end if;
    for item in select distinct s.change from comporta.step s where s.change in ('OPT2', 'OPT4') order by 1 desc loop
        raise exception 'OPT1 cannot be rolled back: % stands on it', item.change
            using hint = format('Roll back %s first; nothing was changed.', item.change);
    end loop;
    parent := 'catalogue.geometrias';
    if (select c.relkind from pg_catalog.pg_class c where c.oid = parent) <> 'p' then
        raise exception 'OPT1 cannot be rolled back: catalogue.geometrias is not the partitioned table that OPT1 made'
            using hint = 'Something else replaced it: bring that back first; nothing was changed.';
    end if;
    for item in select comporta.shape_differences('comporta_opt1_before.geometrias', parent) as what limit 1 loop
        raise exception 'OPT1 cannot be rolled back: catalogue.geometrias was altered since: %', item.what
            using hint = 'Make the same change on comporta_opt1_before.geometrias, then run this script again; nothing was changed.';
    end loop;
    for item in select comporta.immovable(parent) as what
                union all
                select format('foreign key %I of %s references it', c.conname, c.conrelid::regclass)
                  from pg_catalog.pg_constraint c where c.contype = 'f' and c.confrelid = parent and c.conparentid = 0 loop
        raise exception 'OPT1 cannot be rolled back: % and cannot follow catalogue.geometrias to another table', item.what
            using hint = 'Drop it, and make it again afterwards; nothing was changed.';
    end loop;
end
$$;

-- 2. An apply that never reached its swap: only its preparations go. From here on apply refuses to continue.
do $$
begin
    if comporta.done('OPT1', 'logging') and not comporta.done('OPT1', 'swapped') then
        call comporta.with_lock(array['catalogue.geometrias'], $body$
            drop trigger if exists comporta_log on catalogue.geometrias;
            drop trigger if exists comporta_no_truncate on catalogue.geometrias;
            select comporta.mark('OPT1', 'abandoned');
            select comporta.forget('OPT1', 'logging')
        $body$);
    elsif comporta.done('OPT1', 'prepared') and not comporta.done('OPT1', 'swapped') then
        perform comporta.mark('OPT1', 'abandoned');
    end if;
end
$$;

-- 3. Bring the rows written since up to date in the original, while people go on using the partitioned table.
do $$
begin
    if comporta.done('OPT1', 'swapped') and not comporta.done('OPT1', 'restored') then
        call comporta.replay('OPT1/after', 'catalogue.geometrias', 'comporta_opt1_before.geometrias', 5);
    end if;
end
$$;

-- 4. The swap back. Everything in this function runs under ACCESS EXCLUSIVE.
create or replace function comporta.opt1_swap_out() returns void
    language plpgsql set search_path = ''
as $$
declare
    original regclass := 'comporta_opt1_before.geometrias';
    parent regclass := 'catalogue.geometrias';
    apart regproc[] := array['comporta.log_row', 'comporta.refuse_truncate', 'comporta.geometrias_ids_move', 'comporta.geometrias_ids_keep']::regproc[];
    dependants jsonb := comporta.dependants(parent);
    inbound jsonb := comporta.inbound_keys('catalogue.geometrias_ids');
    outbound jsonb := comporta.outbound_keys(parent);
    item record;
begin
    for item in select comporta.shape_differences(original, parent) as what limit 1 loop
        raise exception 'OPT1 cannot be rolled back: catalogue.geometrias was altered since: %', item.what
            using hint = 'Make the same change on comporta_opt1_before.geometrias, then run this script again; nothing was changed.';
    end loop;
    -- A key that apply had no time to validate again counts as what it was before.
    select coalesce(pg_catalog.jsonb_agg(case when coalesce((before.key ->> 'validated')::boolean, false)
                                              then pg_catalog.jsonb_set(now.key, '{validated}', 'true') else now.key end), '[]')
      into inbound
      from pg_catalog.jsonb_array_elements(inbound) as now (key)
      left join pg_catalog.jsonb_array_elements(comporta.detail('OPT1', 'inbound keys')) as before (key)
        on before.key ->> 'table' = now.key ->> 'table' and before.key ->> 'name' = now.key ->> 'name';
    while comporta.replay_batch('OPT1/after', parent, original, 10000) > 0 loop
    end loop;
    perform comporta.carry_grants(parent, original);
    perform comporta.carry_sequence(parent, original, 'id');
    perform comporta.carry_policies(parent, original);
    perform comporta.carry_triggers(parent, original, apart);
    perform comporta.carry_comments(parent, original);
    perform comporta.carry_publications(parent, original);
    create schema comporta_opt1_after;
    for item in select s.stxname from pg_catalog.pg_statistic_ext s where s.stxrelid = parent and s.stxnamespace = 'catalogue'::regnamespace loop
        execute pg_catalog.format('alter statistics catalogue.%I set schema comporta_opt1_after', item.stxname);
    end loop;
    alter table catalogue.geometrias set schema comporta_opt1_after;
    for item in select s.stxname from pg_catalog.pg_statistic_ext s where s.stxrelid = original and s.stxnamespace = 'comporta_opt1_before'::regnamespace loop
        execute pg_catalog.format('alter statistics comporta_opt1_before.%I set schema catalogue', item.stxname);
    end loop;
    alter table comporta_opt1_before.geometrias set schema catalogue;
    perform comporta.repoint_keys(inbound, 'catalogue.geometrias');
    for item in select * from pg_catalog.jsonb_to_recordset(outbound) as x (name text, definition text, comment text) loop
        execute pg_catalog.format('alter table catalogue.geometrias add constraint %I %s not valid', item.name, item.definition);
        if item.comment is not null then
            execute pg_catalog.format('comment on constraint %I on catalogue.geometrias is %L', item.name, item.comment);
        end if;
    end loop;
    perform comporta.rebind(dependants);
    perform comporta.mark('OPT1', 'inbound keys', inbound);
    perform comporta.mark('OPT1', 'outbound keys', outbound);
    perform comporta.mark('OPT1', 'restored');
end
$$;

do $$
begin
    if comporta.done('OPT1', 'swapped') and not comporta.done('OPT1', 'restored') then
        call comporta.with_lock(array_remove(comporta.swap_locks('catalogue.geometrias_ids'), 'catalogue.geometrias_ids')
                                || comporta.swap_locks('catalogue.geometrias') || array['catalogue.geometrias_ids'], 'select comporta.opt1_swap_out()');
    end if;
end
$$;

-- 5. Keys are as valid as they were.
do $$
begin
    if comporta.done('OPT1', 'restored') then
        call comporta.validate_keys(coalesce(comporta.detail('OPT1', 'inbound keys'), '[]'::jsonb));
        call comporta.validate_keys(coalesce(comporta.detail('OPT1', 'outbound keys'), '[]'::jsonb));
    end if;
end
$$;

do $$
declare
    item record;
begin
    for item in select substr(s.step, 13) as name from comporta.step s join pg_catalog.pg_publication p on p.pubname = substr(s.step, 13)
                 where s.change = 'OPT1' and s.step like 'publication %' loop
        execute format('alter publication %I set (publish_via_partition_root = false)', item.name);
        perform comporta.forget('OPT1', 'publication ' || item.name);
    end loop;
end
$$;

-- 6. Nobody reads these any more: drop what OPT1 made, whether it was finished or not.
do $$
declare
    item record;
begin
    if comporta.done('OPT1', 'swapped') and not comporta.done('OPT1', 'restored') then
        raise exception 'OPT1 was not swapped back; nothing is dropped';
    end if;
    if not exists (select from comporta.step s where s.change = 'OPT1') then
        return;
    end if;
    -- Dropping a table drops the triggers of its keys on the tables that it references: a lock that others could wait for.
    for item in select c.oid::regclass::text as name, array_agg(distinct k.confrelid::regclass::text) filter (where k.confrelid is not null) as referenced
                  from pg_catalog.pg_class c left join pg_catalog.pg_constraint k on k.conrelid = c.oid and k.contype = 'f'
                 where c.oid in (pg_catalog.to_regclass('comporta_opt1_after.geometrias'), pg_catalog.to_regclass('comporta_opt1_next.geometrias'))
                    or (c.relnamespace = 'catalogue'::regnamespace and c.relkind = 'r' and not c.relispartition
                        and c.relname in (select 'geometrias_' || year from generate_series(2015, 2028) year union all values ('geometrias_default')))
                 group by c.oid loop
        call comporta.with_lock(coalesce(item.referenced, '{}') || item.name, format('drop table %s', item.name));
    end loop;
    drop table if exists catalogue.geometrias_ids;
    drop schema if exists comporta_opt1_after;
    drop schema if exists comporta_opt1_next;
    drop schema if exists comporta_opt1_before;
    delete from comporta.row_log where log like 'OPT1/%';
    perform comporta.forget('OPT1');
end
$$;

drop function if exists comporta.geometrias_ids_keep();

drop function if exists comporta.geometrias_ids_move();

drop function if exists comporta.opt1_swap_in();

drop function if exists comporta.opt1_swap_out();

analyze catalogue.geometrias;

select comporta.release('OPT1');
