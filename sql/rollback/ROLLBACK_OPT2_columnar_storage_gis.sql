-- Purpose:     brings every cold row back to the row store, byte for byte, with all that was written since OPT2 was applied,
--              and gives the name catalogue.geometrias back to the partitioned table.
-- Requires:    sql/support; superuser. OPT3, OPT4 and OPT5 may stay. Room for the row store of the cold rows.
-- Locks:       as the apply script: ACCESS EXCLUSIVE through comporta.with_lock (30 ms a try), once a leaf (10..40 ms) and
--              once on geometrias and its views (some 10 ms); rebuilding takes the locks of ordinary reads.
-- Transaction: no. Run again after a kill at any point, it continues. Harmless when OPT2 is not applied.

select comporta.claim('OPT2');

do $$
begin
    if comporta.done('OPT2', 'view') then
        perform comporta.mark('OPT2', 'rolling back');
    end if;
end
$$;

do $$
declare
    next_leaf text;
begin
    if to_regclass('comporta_opt2_cold.leaf') is null then
        return;
    end if;
    for next_leaf in select l.name from comporta_opt2_cold.leaf l order by l.high desc loop
        call comporta.cold_restore(next_leaf);
    end loop;
end
$$;

-- The name goes back to the partitioned table.
do $$
begin
    if comporta.done('OPT2', 'view') then
        call comporta.with_lock(comporta.swap_locks('catalogue.geometrias'::regclass) || comporta.stored_in('catalogue.geometrias')::text,
            'drop function if exists catalogue.rpc_geometrias_historico(public.geometry, date, date);
             drop function if exists catalogue.rpc_geometrias_resumo(date, date);
             select comporta.cold_swap_out();
             select comporta.forget(''OPT2'', ''view'')', budget_ms => 30);
    end if;
end
$$;

-- Only OPT2's own objects are in these two schemas by now; anything else there stops the rollback.
do $$
declare
    stranger text;
begin
    if to_regnamespace('comporta_opt2') is null and to_regnamespace('comporta_opt2_cold') is null then
        return;
    end if;
    select string_agg(c.oid::regclass::text, ', ') into stranger
      from pg_class c
     where c.relnamespace in (to_regnamespace('comporta_opt2'), to_regnamespace('comporta_opt2_cold'))
       and c.relkind in ('r', 'p', 'm', 'f') and c.relname not in ('layout', 'column_layout', 'leaf', 'change_log', 'tombstone', 'chunk', 'columnar_row', 'cold');
    if stranger is not null then
        raise exception 'cannot remove the schemas of OPT2: they still hold %', stranger
            using errcode = 'dependent_objects_still_exist', hint = 'Move what is named elsewhere and run this script again.';
    end if;
end
$$;

do $$
declare
    found record;
begin
    if to_regclass('comporta_opt2_cold.cold') is not null then
        for found in select k.confrelid::regclass::text as referenced, k.conname from pg_constraint k where k.conrelid = 'comporta_opt2_cold.cold'::regclass and k.contype = 'f' loop
            call comporta.with_lock(array['comporta_opt2_cold.cold', found.referenced], format('alter table comporta_opt2_cold.cold drop constraint %I', found.conname));
        end loop;
    end if;
end
$$;

set client_min_messages = warning;

drop schema if exists comporta_opt2, comporta_opt2_cold cascade;

reset client_min_messages;

select comporta.forget('OPT2');

select comporta.release('OPT2');
