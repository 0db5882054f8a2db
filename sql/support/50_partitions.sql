-- Purpose:     yearly partitions of a range-partitioned table, made ahead of need and taken back: built stand-alone, put in
--              place by changes of the catalogue only. Used by OPT4, by its daily job and by its rollback.
-- Requires:    10_core.sql, 20_swap.sql.
-- Locks:       none here; each routine names its own.
-- Transaction: yes, but may also run statement by statement.
--
-- Rows never move between attached partitions: triggers would fire. They are copied into tables that nobody reads yet
-- (schema comporta_opt4, and the new leaf), a log of changed keys keeps the copy true, and one short transaction puts the
-- new tables in the place of the old ones.

-- Partitions of PARENT with their bounds; MINVALUE and MAXVALUE read as -infinity and infinity.
create or replace function comporta.partitions(parent regclass)
    returns table (leaf regclass, name text, place text, low date, high date, is_default boolean)
    language sql stable
as $$
    select c.oid::regclass, c.relname::text, n.nspname::text,
           case b.bound[1] when 'MINVALUE' then '-infinity' else trim(both '''' from b.bound[1]) end::date,
           case b.bound[2] when 'MAXVALUE' then 'infinity' else trim(both '''' from b.bound[2]) end::date,
           pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT'
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
      join pg_namespace n on n.oid = c.relnamespace
      left join lateral regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \((.*)\) TO \((.*)\)') b (bound) on true
     where i.inhparent = parent and not i.inhdetachpending
$$;

-- The partition key of PARENT, quoted; null unless it is one plain date column.
create or replace function comporta.date_key(parent regclass) returns text
    language sql stable set search_path = pg_catalog, pg_temp
as $$
    select quote_ident(a.attname)
      from pg_partitioned_table p join pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
     where p.partrelid = parent and p.partstrat = 'r' and p.partnatts = 1 and a.atttypid = 'date'::regtype
$$;

create or replace function comporta.inside(key text, low date, high date) returns text
    language sql stable set search_path = pg_catalog, pg_temp
as $$
    select format('%s is not null', key) || case when isfinite(low) then format(' and %s >= %L::date', key, to_char(low, 'YYYY-MM-DD')) else '' end
                                         || case when isfinite(high) then format(' and %s < %L::date', key, to_char(high, 'YYYY-MM-DD')) else '' end
$$;

create or replace function comporta.outside(key text, low date, high date) returns text
    language sql stable set search_path = pg_catalog, pg_temp
as $$
    select '(' || concat_ws(' or ', case when isfinite(low) then format('%s < %L::date', key, to_char(low, 'YYYY-MM-DD')) end,
                                    case when isfinite(high) then format('%s >= %L::date', key, to_char(high, 'YYYY-MM-DD')) end) || ')'
$$;

-- Tables that foreign keys of RELATION refer to.
create or replace function comporta.referenced_by(relation regclass) returns text[]
    language sql stable
as $$
    select coalesce(array_agg(distinct c.confrelid::regclass::text), '{}') from pg_constraint c where c.conrelid = relation and c.contype = 'f'
$$;

-- An index or statistics object of MODEL gets the name that it has there, with the leaf's name in the place of the model's.
create or replace function comporta.name_in(model_name text, leaf_name text, object_name text) returns text
    language sql immutable set search_path = pg_catalog, pg_temp
as $$
    select left(case when strpos(object_name, model_name) = 1 then leaf_name || substr(object_name, length(model_name) + 1)
                     else leaf_name || '_' || object_name end, 63)
$$;

-- A table of its own in the shape of MODEL, empty: columns, checks of CHECKS_OF, indexes, options, targets, owner and
-- grants. Foreign keys come apart, they lock the table referred to: comporta.copy_keys. BOUND becomes a validated check,
-- so that attaching it scans nothing.
create or replace function comporta.build_leaf(model regclass, checks_of regclass, leaf_place text, leaf_name text, bound text)
    returns regclass
    language plpgsql set search_path = ''
as $$
declare
    leaf regclass;
    model_name text := (select c.relname from pg_catalog.pg_class c where c.oid = model);
    item record;
    made text;
begin
    execute pg_catalog.format('create table %I.%I (like %s including defaults including generated including storage including compression including comments)',
                              leaf_place, leaf_name, model);
    leaf := pg_catalog.format('%I.%I', leaf_place, leaf_name)::regclass;
    for item in select c.conname, pg_catalog.pg_get_constraintdef(c.oid) as definition from pg_catalog.pg_constraint c
                 where c.conrelid = checks_of and c.contype = 'c' and not c.connoinherit and c.conname not like 'comporta\_%' loop
        execute pg_catalog.format('alter table %s add constraint %I %s', leaf, item.conname, item.definition);
    end loop;
    execute pg_catalog.format('alter table %s add constraint comporta_opt4_bound check (%s)', leaf, bound);

    for item in select c.reloptions, t.reloptions as toast_options, c.relreplident
                  from pg_catalog.pg_class c left join pg_catalog.pg_class t on t.oid = c.reltoastrelid where c.oid = model loop
        if item.reloptions is not null then
            execute pg_catalog.format('alter table %s set (%s)', leaf, pg_catalog.array_to_string(item.reloptions, ', '));
        end if;
        if item.toast_options is not null then
            execute pg_catalog.format('alter table %s set (toast.%s)', leaf, pg_catalog.array_to_string(item.toast_options, ', toast.'));
        end if;
        if item.relreplident in ('f', 'n') then
            execute pg_catalog.format('alter table %s replica identity %s', leaf, case item.relreplident when 'f' then 'full' else 'nothing' end);
        end if;
    end loop;
    for item in select a.attname, a.attstattarget, a.attoptions from pg_catalog.pg_attribute a
                 where a.attrelid = model and a.attnum > 0 and not a.attisdropped loop
        if item.attstattarget >= 0 then
            execute pg_catalog.format('alter table %s alter column %I set statistics %s', leaf, item.attname, item.attstattarget);
        end if;
        if item.attoptions is not null then
            execute pg_catalog.format('alter table %s alter column %I set (%s)', leaf, item.attname, pg_catalog.array_to_string(item.attoptions, ', '));
        end if;
    end loop;

    for item in select i.indisclustered, i.indisreplident, i.indisunique, ic.oid, ic.relname, pg_catalog.pg_get_indexdef(i.indexrelid) as definition,
                       k.oid as constraint_oid, k.conname, pg_catalog.pg_get_constraintdef(k.oid) as constraint_definition,
                       pg_catalog.obj_description(ic.oid, 'pg_class') as comment
                  from pg_catalog.pg_index i join pg_catalog.pg_class ic on ic.oid = i.indexrelid
                  left join pg_catalog.pg_constraint k on k.conindid = i.indexrelid and k.conrelid = i.indrelid and k.contype in ('p', 'u', 'x')
                 where i.indrelid = model and i.indisvalid order by i.indisprimary desc, ic.relname loop
        made := comporta.name_in(model_name, leaf_name, item.relname);
        if item.constraint_oid is not null then
            execute pg_catalog.format('alter table %s add constraint %I %s', leaf, made, item.constraint_definition);
        else
            execute pg_catalog.format('create %s index %I on %s%s', case when item.indisunique then 'unique' end, made, leaf,
                                      substr(item.definition, strpos(item.definition, ' USING ')));
        end if;
        if item.comment is not null then
            execute pg_catalog.format('comment on index %I.%I is %L', leaf_place, made, item.comment);
        end if;
        if item.indisclustered then
            execute pg_catalog.format('alter table %s cluster on %I', leaf, made);
        end if;
        if item.indisreplident then
            execute pg_catalog.format('alter table %s replica identity using index %I', leaf, made);
        end if;
    end loop;
    -- Default privileges may have granted a part to readers that the policies of the whole protect.
    perform comporta.carry_grants(model, leaf);
    perform comporta.carry_policies(model, leaf);
    return leaf;
end
$$;

-- Statements that give LEAF the foreign keys of MODEL: to be run while it is empty, with the tables referred to locked.
create or replace function comporta.copy_keys(model regclass, leaf text) returns text
    language sql stable set search_path = ''
as $$
    select coalesce(pg_catalog.string_agg(pg_catalog.format('alter table %s add constraint %I %s', leaf, c.conname,
                    pg_catalog.regexp_replace(pg_catalog.pg_get_constraintdef(c.oid), ' NOT VALID$', '')), '; ' order by c.conname), 'select')
      from pg_catalog.pg_constraint c where c.conrelid = model and c.contype = 'f'
$$;

-- Statements that give LEAF the extended statistics of MODEL; they live in a schema of their own choice, hence the place.
create or replace function comporta.copy_statistics(model regclass, leaf_place text, leaf_name text) returns text
    language sql stable set search_path = ''
as $$
    select coalesce(pg_catalog.string_agg(
             pg_catalog.format('create statistics %I.%I%s from %I.%I; alter statistics %I.%I owner to %I%s%s', n.nspname, m.made,
               substr(d.text, length(pg_catalog.format('CREATE STATISTICS %I.%I', n.nspname, s.stxname)) + 1,
                      length(d.text) - length(pg_catalog.format('CREATE STATISTICS %I.%I', n.nspname, s.stxname)) - length(' FROM ' || model::text)),
               leaf_place, leaf_name, n.nspname, m.made, pg_catalog.pg_get_userbyid(s.stxowner),
               case when s.stxstattarget >= 0 then pg_catalog.format('; alter statistics %I.%I set statistics %s', n.nspname, m.made, s.stxstattarget) end,
               '; ' || pg_catalog.format('comment on statistics %I.%I is %L', n.nspname, m.made, pg_catalog.obj_description(s.oid, 'pg_statistic_ext'))),
             '; ' order by s.stxname), 'select')
      from pg_catalog.pg_statistic_ext s
      join pg_catalog.pg_namespace n on n.oid = s.stxnamespace
      join pg_catalog.pg_class c on c.oid = s.stxrelid
      cross join lateral (select pg_catalog.pg_get_statisticsobjdef(s.oid) as text) d
      cross join lateral (select comporta.name_in(c.relname, leaf_name, s.stxname) as made) m
     where s.stxrelid = model
$$;

-- The quick way, when the default partition holds no row of the range: true when LEAF is attached afterwards.
-- Locks: ACCESS EXCLUSIVE on the default partition for some milliseconds, SHARE UPDATE EXCLUSIVE on PARENT.
-- A check on the default partition would spare ATTACH its scan, but refuses rows from the moment it is added: a default
-- partition too large to be scanned in a moment goes the other way instead (comporta.exchange).
create or replace function comporta.attach_if_clear(change text, parent regclass, leaf regclass, low date, high date) returns boolean
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    remainder regclass := (select p.leaf from comporta.partitions(parent) p where p.is_default);
    occupied boolean;
begin
    execute format('lock table %s in share update exclusive mode', parent);
    execute format('lock table %s in access exclusive mode', remainder);
    execute format('select exists (select from only %s where %s)', remainder, comporta.inside(comporta.date_key(parent), low, high)) into occupied;
    if not occupied then
        perform comporta.attach(change, parent, leaf, low, high);
    end if;
    return not occupied;
end
$$;

create or replace function comporta.attach(change text, parent regclass, leaf regclass, low date, high date) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    item record;
begin
    execute format('alter table %s attach partition %s for values from (%L) to (%L)', parent, leaf, to_char(low, 'YYYY-MM-DD'), to_char(high, 'YYYY-MM-DD'));
    execute format('alter table %s drop constraint comporta_opt4_bound', leaf);
    select s.step, s.detail into item from comporta.step s join pg_class c on c.oid = leaf
     where s.change = attach.change and s.step = 'partition ' || c.relname;
    perform comporta.mark(change, item.step, item.detail || '{"state": "attached"}');
end
$$;

-- What an earlier run left when it was killed: its log, its triggers, its copies. Afterwards an exchange can begin.
-- Locks: SHARE ROW EXCLUSIVE on a partition that carries a trigger of ours; ACCESS EXCLUSIVE on the tables referred to by
-- an abandoned copy, for some milliseconds.
create or replace procedure comporta.clear_exchange(change text)
    language plpgsql
as $$
declare
    tables text[];
    one text;
begin
    tables := array(select t.tgrelid::regclass::text from pg_catalog.pg_trigger t where t.tgname = 'comporta_opt4_log');
    foreach one in array tables loop
        call comporta.with_lock(array[one], format('drop trigger if exists comporta_opt4_log on %s', one), 'share row exclusive', 80);
    end loop;
    tables := array(select c.oid::regclass::text from pg_catalog.pg_class c
                     where c.relnamespace = to_regnamespace('comporta_opt4') and c.relkind = 'r');
    foreach one in array tables loop
        call comporta.with_lock(comporta.referenced_by(one::regclass), format('drop table if exists %s', one), 'access exclusive', 80);
    end loop;
    if to_regnamespace('comporta_opt4') is not null then
        drop schema comporta_opt4;
    end if;
    delete from comporta.row_log l where l.log = change;
    commit;
end
$$;

-- One batch of the log of an exchange: each of its rows is made in the new tables what it is in the old ones now.
create or replace function comporta.exchange_batch(change text, old_tables text[], new_tables text[], filters text[], max_entries integer)
    returns integer
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    columns text := comporta.writable_columns(new_tables[1]::regclass);
    entries integer;
    ids bigint[];
begin
    with taken as (
        delete from comporta.row_log l
         where l.log = change
           and l.seq in (select n.seq from comporta.row_log n where n.log = change order by n.seq limit max_entries)
        returning l.id
    )
    select count(*), array_agg(distinct id) into entries, ids from taken;
    if entries = 0 then
        return 0;
    end if;
    for n in 1 .. cardinality(new_tables) loop
        execute format('delete from only %s where id = any ($1)', new_tables[n]) using ids;
        for o in 1 .. cardinality(old_tables) loop
            execute format('insert into %s (%s) overriding system value select %s from only %s where id = any ($1) and (%s)',
                           new_tables[n], columns, columns, old_tables[o], filters[n]) using ids;
        end loop;
    end loop;
    return entries;
end
$$;

-- Puts the new tables in the place of the old ones, or returns false when too much was written since the last replay.
-- Called with ACCESS EXCLUSIVE on PARENT and on the tables that its foreign keys refer to.
create or replace function comporta.exchange_swap(change text, parent regclass, old_tables text[], new_tables text[], filters text[],
                                                  lows date[], highs date[])
    returns boolean
    language plpgsql
as $$
declare
    remainder text := old_tables[1];
    place text;
    remainder_name text;
    statistics_again text;
    one text;
begin
    perform set_config('lock_timeout', '20', true);
    foreach one in array old_tables loop
        execute format('lock table %s in access exclusive mode', one);
    end loop;
    set constraints all immediate;
    if (select count(*) from (select from comporta.row_log l where l.log = change limit 101) few) > 100 then
        return false;
    end if;
    perform comporta.exchange_batch(change, old_tables, new_tables, filters, 1000);

    select n.nspname, c.relname into place, remainder_name from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = remainder::regclass;
    statistics_again := comporta.copy_statistics(remainder::regclass, place, remainder_name);
    perform comporta.carry_publications(remainder::regclass, new_tables[1]::regclass);
    foreach one in array old_tables loop
        execute format('alter table %s detach partition %s', parent, one);
    end loop;
    execute format('drop trigger comporta_opt4_log on %s', remainder);
    perform comporta.carry_triggers(remainder::regclass, new_tables[1]::regclass, '{}');
    foreach one in array old_tables loop
        perform comporta.forget(change, 'partition ' || (select c.relname from pg_class c where c.oid = one::regclass));
        execute format('drop table %s', one);
    end loop;
    for n in 2 .. cardinality(new_tables) loop
        perform comporta.attach(change, parent, new_tables[n]::regclass, lows[n], highs[n]);
    end loop;
    execute format('alter table %s set schema %I', new_tables[1], place);
    execute format('alter table %s attach partition %I.%I default', parent, place, remainder_name);
    execute format('alter table %I.%I drop constraint comporta_opt4_bound', place, remainder_name);
    execute statistics_again;
    return true;
end
$$;

-- Gives PARENT a new default partition, with the rows of LEAVING (attached partitions, removed) and without those of
-- ARRIVING (stand-alone leaves, attached), while rows are read and written. Locks: SHARE ROW EXCLUSIVE on the default
-- partition and LEAVING to start the log; ACCESS EXCLUSIVE on PARENT and the tables that it refers to for the swap.
create or replace procedure comporta.exchange(change text, parent regclass, arriving text[], lows date[], highs date[], leaving text[])
    language plpgsql
as $$
declare
    key text := comporta.date_key(parent);
    remainder regclass;
    place text;
    remainder_name text;
    bound text;
    old_tables text[];
    new_tables text[];
    filters text[];
    referenced text[];
    columns text;
    body text;
    last_id bigint;
    copied_until xid8;
    swapped boolean := false;
begin
    call comporta.clear_exchange(change);
    select p.leaf, p.place, p.name into remainder, place, remainder_name from comporta.partitions(parent) p where p.is_default;
    referenced := comporta.referenced_by(remainder);
    old_tables := remainder::text || leaving;
    select string_agg(x.outside, ' and ') into bound from (
        select comporta.outside(key, p.low, p.high) as outside from comporta.partitions(parent) p
         where not p.is_default and p.leaf::text <> all (leaving)
        union all
        select comporta.outside(key, a.low, a.high) from unnest(lows, highs) a (low, high)) x;
    execute format('create schema comporta_opt4 authorization %I', (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = remainder));
    perform comporta.carry_comments(remainder, comporta.build_leaf(remainder, remainder, 'comporta_opt4', remainder_name, coalesce(bound, 'true')));
    commit;
    new_tables := format('comporta_opt4.%I', remainder_name) || arriving;
    filters := (select coalesce(string_agg(comporta.outside(key, a.low, a.high), ' and '), 'true') from unnest(lows, highs) a (low, high))
               || array(select comporta.inside(key, a.low, a.high) from unnest(lows, highs) with ordinality a (low, high, n) order by a.n);
    call comporta.with_lock(referenced, comporta.copy_keys(remainder, new_tables[1]), 'share row exclusive', 80);

    -- From here on every change of the old tables is logged; writers before it have ended, so the copy sees their rows.
    body := (select string_agg(format('create trigger comporta_opt4_log after insert or update or delete on %s for each row execute function comporta.log_row(%L); '
                                      'alter table %s enable always trigger comporta_opt4_log', t.name, change, t.name), '; ') from unnest(old_tables) t (name));
    call comporta.with_lock(old_tables, body, 'share row exclusive', 80);
    columns := comporta.writable_columns(remainder);
    for n in 1 .. cardinality(new_tables) loop
        for o in 1 .. cardinality(old_tables) loop
            last_id := null;
            loop
                execute format('with batch as materialized (select %s from only %s where (%s) and ($1 is null or id > $1) order by id limit 500),
                                     put as (insert into %s (%s) overriding system value select %s from batch on conflict do nothing)
                                select max(id) from batch', columns, old_tables[o], filters[n], new_tables[n], columns, columns)
                   into last_id using last_id;
                commit;
                exit when last_id is null;
            end loop;
        end loop;
        execute format('analyze %s', new_tables[n]);
        commit;
    end loop;
    -- A statement whose snapshot is older than the copy would not find the copied rows: let those end first.
    copied_until := pg_current_xact_id();
    commit;
    for attempt in 1 .. 600 loop
        while comporta.exchange_batch(change, old_tables, new_tables, filters, 500) > 20 loop
            commit;
        end loop;
        commit;
        perform pg_stat_clear_snapshot();
        exit when not exists (select from pg_stat_activity a where a.datname = current_database() and a.pid <> pg_backend_pid()
                                 and a.backend_type = 'client backend' and age(a.backend_xmin) > age(copied_until::xid));
        commit;
        if attempt = 600 then
            raise notice 'a transaction older than 30 s is still open; until it ends it does not see rows of % that have been copied', parent;
        end if;
        perform pg_sleep(0.05);
    end loop;
    while not swapped loop
        while comporta.exchange_batch(change, old_tables, new_tables, filters, 500) > 20 loop
            commit;
        end loop;
        commit;
        call comporta.with_lock(referenced || parent::text,
            format('select comporta.exchange_swap(%L, %L, %L, %L, %L, %L, %L)', change, parent, old_tables, new_tables, filters,
                   array[null::date] || lows, array[null::date] || highs), 'access exclusive', 80);
        swapped := to_regclass(new_tables[1]) is null;
    end loop;
    call comporta.clear_exchange(change);
end
$$;

-- Partitions for each year from FIRST_YEAR to HORIZON_YEARS after the present, or after the newest row when that is later,
-- and the rows of those years out of the default partition. Idempotent; call it outside a transaction.
create or replace procedure comporta.ensure_yearly_partitions(change text, name text, first_year integer, horizon_years integer)
    language plpgsql
as $$
declare
    parent regclass;
    key text;
    model record;
    remainder regclass;
    newest date;
    farthest integer;
    last_year integer;
    since date;
    upto date;
    leaf_name text;
    leaf_path text;
    body text;
    occupied boolean;
    built text[] := '{}';
    lows date[] := '{}';
    highs date[] := '{}';
    beyond bigint;
begin
    if horizon_years is null or horizon_years not between 0 and 100 then
        raise exception 'horizon_years is expected between 0 and 100, found %', coalesce(horizon_years::text, 'null')
            using errcode = 'invalid_parameter_value', hint = 'Nothing was changed.';
    end if;
    if not pg_try_advisory_lock(hashtext('comporta'), hashtext('change')) then
        raise notice 'skipped: a change script is running; the next run makes the partitions';
        return;
    end if;
    parent := comporta.stored_in(name);
    key := comporta.date_key(parent);
    select p.leaf into remainder from comporta.partitions(parent) p where p.is_default;
    select p.leaf, p.name, p.place, p.low into model from comporta.partitions(parent) p where not p.is_default and isfinite(p.low) order by p.low desc limit 1;
    if key is null or remainder is null or model.leaf is null then
        perform comporta.release(change);
        raise exception '% requires OPT1: expected % range-partitioned by a date with a default partition and yearly leaves, found %', change, name,
                case when key is null then 'no such partition key' when remainder is null then 'no default partition' else 'no leaf' end
            using errcode = 'object_not_in_prerequisite_state', hint = 'Run sql/apply/OPT1_temporal_partitioning_geometrias.sql first. Nothing was changed.';
    end if;
    call comporta.clear_exchange(change);

    farthest := greatest(extract(year from current_date)::integer, first_year) + 100;
    execute format('select max(%s) from %s where %s', key, parent, comporta.inside(key, make_date(first_year, 1, 1), make_date(farthest + 1, 1, 1))) into newest;
    last_year := greatest(extract(year from current_date)::integer, first_year, coalesce(extract(year from newest)::integer, first_year)) + horizon_years;
    commit;

    for year in first_year .. last_year loop
        since := make_date(year, 1, 1);
        upto := make_date(year + 1, 1, 1);
        if exists (select from comporta.partitions(parent) p where p.low < upto and p.high > since) then
            if not exists (select from comporta.partitions(parent) p where p.low <= since and p.high >= upto) then
                raise notice 'the year % is partly covered by partitions made by hand; it was left as it is', year;
            end if;
            continue;
        end if;
        select p.leaf, p.name, p.place, p.low into model from comporta.partitions(parent) p
         where not p.is_default and isfinite(p.low) order by p.low desc limit 1;
        leaf_name := regexp_replace(model.name, '\d{4}$', '') || year;
        leaf_path := format('%I.%I', model.place, leaf_name);
        if to_regclass(leaf_path) is not null then
            if comporta.detail(change, 'partition ' || leaf_name) ->> 'state' is distinct from 'building' then
                perform comporta.release(change);
                raise exception 'the partition for % cannot be made: expected the name % to be free, found a table that % did not make', year, leaf_path, change
                    using errcode = 'duplicate_table', hint = 'Rename or remove that table and call this again; it continues.';
            end if;
            call comporta.with_lock(comporta.referenced_by(leaf_path::regclass), format('drop table if exists %s', leaf_path), 'access exclusive', 80);
        end if;
        perform comporta.mark(change, 'partition ' || leaf_name,
                              jsonb_build_object('state', 'building', 'place', model.place, 'name', leaf_name, 'low', since, 'high', upto));
        perform comporta.build_leaf(model.leaf, parent, model.place, leaf_name, comporta.inside(key, since, upto));
        execute comporta.copy_statistics(model.leaf, model.place, leaf_name);
        commit;
        call comporta.with_lock(comporta.referenced_by(model.leaf), comporta.copy_keys(model.leaf, leaf_path), 'share row exclusive', 80);
        execute format('select exists (select from only %s where %s)', remainder, comporta.inside(key, since, upto)) into occupied;
        commit;
        if not occupied and pg_relation_size(remainder) < 8388608 then
            body := format('select comporta.attach_if_clear(%L, %L, %L, %L, %L)', change, parent, leaf_path, since, upto);
            call comporta.with_lock(comporta.referenced_by(model.leaf), body, 'share row exclusive', 80);
        end if;
        if not exists (select from comporta.partitions(parent) p where p.leaf = leaf_path::regclass) then
            built := built || leaf_path;
            lows := lows || since;
            highs := highs || upto;
        end if;
    end loop;

    -- Two at a time keep the swap short.
    for start in 1 .. cardinality(built) by 2 loop
        call comporta.exchange(change, parent, built[start : start + 1], lows[start : start + 1], highs[start : start + 1], '{}');
    end loop;
    perform comporta.mark(change, 'horizon', jsonb_build_object('first_year', first_year, 'last_year', last_year, 'horizon_years', horizon_years));
    execute format('select count(*) from %s where %s > %L', (select p.leaf from comporta.partitions(parent) p where p.is_default), key,
                   make_date(farthest, 12, 31)) into beyond;
    if beyond > 0 then
        raise notice '% rows dated after the year % stay in the default partition', beyond, farthest;
    end if;
    commit;
    perform comporta.release(change);
end
$$;

-- Removes LEAF, an attached partition, if it is empty; returns whether it is gone. Called with ACCESS EXCLUSIVE on PARENT.
create or replace function comporta.drop_if_empty(change text, parent regclass, leaf regclass) returns boolean
    language plpgsql
as $$
declare
    occupied boolean;
begin
    perform set_config('lock_timeout', '20', true);
    execute format('lock table %s in access exclusive mode', leaf);
    execute format('select exists (select from only %s)', leaf) into occupied;
    if not occupied then
        perform comporta.forget(change, 'partition ' || (select c.relname from pg_class c where c.oid = leaf));
        execute format('alter table %s detach partition %s', parent, leaf);
        execute format('drop table %s', leaf);
    end if;
    return not occupied;
end
$$;

-- The partitions that CHANGE made go, their rows go to the default partition. Idempotent; call it outside a transaction.
create or replace procedure comporta.remove_yearly_partitions(change text, name text)
    language plpgsql
as $$
declare
    parent regclass;
    planned text[];
    one text;
    occupied boolean;
    kept text[] := '{}';
begin
    call comporta.clear_exchange(change);
    -- Leaves that never were attached hold nothing but copies.
    planned := array(select format('%I.%I', s.detail ->> 'place', s.detail ->> 'name') from comporta.step s
                      where s.change = remove_yearly_partitions.change and s.step like 'partition %' and s.detail ->> 'state' = 'building'
                      order by s.step);
    foreach one in array planned loop
        if to_regclass(one) is not null then
            call comporta.with_lock(comporta.referenced_by(one::regclass), format('drop table if exists %s', one), 'access exclusive', 80);
        end if;
    end loop;
    delete from comporta.step s where s.change = remove_yearly_partitions.change and s.step like 'partition %' and s.detail ->> 'state' = 'building';
    commit;

    parent := coalesce((select c.oid from comporta.storage s join pg_class c on c.oid = s.stored_in where s.name = remove_yearly_partitions.name), to_regclass(name));
    if comporta.date_key(parent) is null then
        return;
    end if;
    planned := array(select p.leaf::text from comporta.partitions(parent) p
                       join comporta.step s on s.change = remove_yearly_partitions.change and s.step = 'partition ' || p.name
                      where s.detail ->> 'state' = 'attached' order by p.low);
    foreach one in array planned loop
        execute format('select exists (select from only %s)', one) into occupied;
        commit;
        if not occupied then
            call comporta.with_lock(comporta.referenced_by(one::regclass) || parent::text,
                                    format('select comporta.drop_if_empty(%L, %L, %L)', change, parent, one), 'access exclusive', 80);
        end if;
        if to_regclass(one) is not null then
            kept := kept || one;
        end if;
    end loop;
    for start in 1 .. cardinality(kept) by 2 loop
        call comporta.exchange(change, parent, '{}', '{}', '{}', kept[start : start + 1]);
    end loop;
end
$$;
