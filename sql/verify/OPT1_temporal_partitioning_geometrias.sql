-- Purpose:     fail unless OPT1 is whole: partitions, keys, registry, triggers, and every row in exactly one place.
-- Requires:    sql/support.
-- Locks:       ACCESS SHARE.
-- Transaction: yes; leaves nothing behind (the row that it tries to insert is refused).

do $$
declare
    parent regclass;
    item record;
    found bigint;
    expected bigint;
begin
    if comporta.done('OPT1', 'restored') then
        raise exception 'OPT1: expected the partitioned table, found its rollback begun';
    end if;
    if not comporta.done('OPT1', 'swapped') then
        raise exception 'OPT1: expected catalogue.geometrias to be swapped, found that apply has not reached its swap';
    end if;
    parent := comporta.stored_in('catalogue.geometrias');
    if (select c.relkind from pg_catalog.pg_class c where c.oid = parent) <> 'p' then
        raise exception 'OPT1: expected % to be a partitioned table, found relkind %', parent,
            (select c.relkind from pg_catalog.pg_class c where c.oid = parent);
    end if;
    if pg_catalog.pg_get_partkeydef(parent) <> 'RANGE (data_referencia)' then
        raise exception 'OPT1: expected partition key RANGE (data_referencia), found %', pg_catalog.pg_get_partkeydef(parent);
    end if;

    -- OPT2 takes cold leaves away on purpose; without it each year has its leaf.
    for item in select 'geometrias_' || year as leaf from generate_series(2015, 2028) year union all values ('geometrias_default') loop
        if not exists (select from comporta.step s where s.change = 'OPT2')
           and not exists (select from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
                            where i.inhparent = parent and c.relname = item.leaf) then
            raise exception 'OPT1: expected leaf % attached, found it absent', item.leaf;
        end if;
    end loop;

    -- Every index of the parent is valid, which holds only while each leaf has its own.
    for item in select x.indexrelid::regclass as index from pg_catalog.pg_index x where x.indrelid = parent and not x.indisvalid loop
        raise exception 'OPT1: expected index % valid, found it invalid: a leaf lacks it', item.index;
    end loop;
    select count(*) into found from pg_catalog.pg_index x where x.indrelid = parent;
    select count(*) into expected from pg_catalog.pg_index x where x.indrelid = 'comporta_opt1_before.geometrias'::regclass;
    if found < expected then
        raise exception 'OPT1: expected % indexes on %, found %', expected, parent, found;
    end if;

    for item in select k."table" as referencing, k.name as conname, c.convalidated, k.validated, c.confrelid::regclass as target
                  from comporta.step s, pg_catalog.jsonb_to_recordset(s.detail) as k ("table" text, name text, validated boolean)
                  left join pg_catalog.pg_constraint c on c.conrelid = pg_catalog.to_regclass(k."table") and c.conname = k.name
                 where s.change = 'OPT1' and s.step = 'inbound keys' loop
        if item.target is distinct from 'catalogue.geometrias_ids'::regclass or item.validated and not item.convalidated then
            raise exception 'OPT1: expected key % of % valid and pointing at catalogue.geometrias_ids, found target %, validated %',
                item.conname, item.referencing, item.target, item.convalidated;
        end if;
    end loop;

    for item in select name from (values ('geometrias_ids_move'), ('geometrias_ids_keep'), ('geometrias_ids_rekey'), ('comporta_log'), ('comporta_no_truncate')) t (name)
                 where not exists (select from pg_catalog.pg_trigger g where g.tgrelid = parent and g.tgname = t.name and g.tgenabled <> 'D') loop
        raise exception 'OPT1: expected trigger % enabled on %, found it absent or disabled', item.name, parent;
    end loop;
    for item in select g.tgname from pg_catalog.pg_trigger g where g.tgrelid = 'comporta_opt1_before.geometrias'::regclass
                   and not g.tgisinternal and g.tgenabled <> 'D' loop
        raise exception 'OPT1: expected trigger % disabled on the table that stands by, found it enabled', item.tgname;
    end loop;
end
$$;

-- Registry and rows agree, in one snapshot: every row has its entry with the same date, and no entry is left over.
do $$
declare
    missing bigint;
    spare bigint;
begin
    select count(*) filter (where i.id is null), count(*) filter (where g.id is null) into missing, spare
      from (select id, data_referencia from catalogue.geometrias) g
      full join catalogue.geometrias_ids i on i.id = g.id and i.data_referencia = g.data_referencia
     where i.id is null or g.id is null;
    if missing + spare > 0 then
        raise exception 'OPT1: expected catalogue.geometrias_ids to hold every id once, found % rows without an entry and % entries without a row', missing, spare;
    end if;
end
$$;

-- id is unique across partitions: the same id with another year is refused under the former name of the key.
do $$
declare
    named text;
begin
    begin
        insert into catalogue.geometrias (id, layer, name, geom, data_referencia)
        select g.id, g.layer, g.name, g.geom, case when g.data_referencia < '2028-01-01' then date '2028-12-31' else date '2027-01-01' end
          from catalogue.geometrias g limit 1;
        if not found then
            return;
        end if;
    exception when unique_violation then
        get stacked diagnostics named = constraint_name;
    end;
    if named is distinct from 'geometrias_pkey' then
        raise exception 'OPT1: expected a duplicate id to violate geometrias_pkey, found %', coalesce(named, 'that it was accepted');
    end if;
end
$$;
