-- Purpose:     range-partition catalogue.geometrias by data_referencia, one leaf a year, while it is in use.
-- Requires:    sql/support; ownership of catalogue.geometrias and of what points at it; free disk of about its size.
-- Locks:       SHARE ROW EXCLUSIVE on geometrias for moments (log trigger); ACCESS EXCLUSIVE on the tables that it references
--              for moments (keys); ACCESS EXCLUSIVE on geometrias, its views and the tables around it for some tens of ms
--              (swap); each waited for at most 30 ms at a time and tried again;
--              SHARE UPDATE EXCLUSIVE on the referencing tables while their keys are validated.
-- Transaction: no, it commits as it goes; killed anywhere, run it again and it continues.
--
-- How: a partitioned copy is filled beside the table, leaf by leaf, while a trigger logs the ids that change. The log is
-- replayed until it is short, then both tables change places by SET SCHEMA. The former table keeps its OID, indexes and
-- statistics and waits in comporta_opt1_before; ids that change from then on are logged for the rollback.
--
-- A primary key of a partitioned table must contain the partition key, so id alone is kept unique, and referenced, by the
-- registry catalogue.geometrias_ids.

select comporta.claim('OPT1');

-- 1. Refuse what cannot be carried, before anything is made.
do $$
declare
    source regclass := 'catalogue.geometrias';
    item record;
begin
    -- What a rollback has given back cannot be taken up again: writes in between were not logged.
    if comporta.done('OPT1', 'abandoned') or comporta.done('OPT1', 'restored') then
        raise exception 'OPT1: its rollback has begun and is not finished'
            using hint = 'Run the rollback script to its end, then apply again; nothing was changed.';
    end if;
    if comporta.done('OPT1', 'swapped') then
        return;
    end if;
    for item in select c.relkind, c.relpersistence from pg_catalog.pg_class c
                 where c.oid = source and (c.relkind <> 'r' or c.relispartition or c.relpersistence <> 'p'
                                           or exists (select from pg_catalog.pg_inherits i where i.inhrelid = c.oid)) loop
        raise exception 'OPT1: catalogue.geometrias must be an ordinary table that inherits from none, found relkind %, persistence %',
                item.relkind, item.relpersistence
            using hint = 'Roll back whatever replaced it first; nothing was changed.';
    end loop;
    if not exists (select from pg_catalog.pg_constraint c where c.conrelid = source and c.contype = 'p' and not c.condeferrable
                      and c.conkey = array[(select attnum from pg_catalog.pg_attribute where attrelid = source and attname = 'id' and atttypid = 'bigint'::regtype)]) then
        raise exception 'OPT1: the primary key of catalogue.geometrias must be id alone, a bigint, and not deferrable'
            using hint = 'Nothing was changed.';
    end if;
    for item in select comporta.immovable(source) as what limit 1 loop
        raise exception 'OPT1: % and cannot follow catalogue.geometrias to another table', item.what
            using hint = 'Let it read through a function, or drop it and make it again afterwards; nothing was changed.';
    end loop;
    for item in
        select format('trigger %I has transition tables for each row', t.tgname) as what from pg_catalog.pg_trigger t
         where t.tgrelid = source and t.tgtype & 1 = 1 and (t.tgnewtable is not null or t.tgoldtable is not null)
        union all
        select format('constraint %I is %s', c.conname, case c.contype when 'u' then 'a unique constraint' when 'x' then 'an exclusion constraint' else 'not validated' end)
          from pg_catalog.pg_constraint c
         where c.conrelid = source and (c.contype in ('u', 'x') or c.contype in ('c', 'f') and not c.convalidated)
        union all
        select format('publication %I publishes its whole schema or database, and would publish what is made here', p.pubname)
          from pg_catalog.pg_publication p
         where p.puballtables or exists (select from pg_catalog.pg_publication_namespace n
                                          where n.pnpubid = p.oid and n.pnnspid = 'catalogue'::regnamespace)
        union all
        select format('publication %I lists columns without data_referencia, which every update and delete must publish', p.pubname)
          from pg_catalog.pg_publication p join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
         where r.prrelid = source and r.prattrs is not null and (p.pubupdate or p.pubdelete)
           and not r.prattrs::int2[] @> array[(select attnum from pg_catalog.pg_attribute where attrelid = source and attname = 'data_referencia')]
    loop
        raise exception 'OPT1: %: a partitioned catalogue.geometrias cannot have that', item.what
            using hint = 'Change or drop it first; nothing was changed.';
    end loop;
    for item in select c.conname, c.conrelid::regclass as referencing from pg_catalog.pg_constraint c
                 where c.contype = 'f' and c.confrelid = source
                   and (c.conrelid = source or c.confkey <> array[(select attnum from pg_catalog.pg_attribute where attrelid = source and attname = 'id')]) loop
        raise exception 'OPT1: foreign key % of % does not reference catalogue.geometrias (id) alone from another table', item.conname, item.referencing
            using hint = 'Only keys on id can point at the registry; nothing was changed.';
    end loop;
    for item in select i.indexrelid::regclass as index from pg_catalog.pg_index i
                 where i.indrelid = source and i.indisunique and not i.indisprimary
                   and not ((i.indkey::int2[])[0:i.indnkeyatts - 1] @> array[(select attnum from pg_catalog.pg_attribute where attrelid = source and attname = 'data_referencia')]) loop
        raise exception 'OPT1: unique index % does not contain data_referencia and would not be unique across partitions', item.index
            using hint = 'Add the partition key to it, or drop it; nothing was changed.';
    end loop;
    for item in select i.indexrelid::regclass as index from pg_catalog.pg_index i
                 where i.indrelid = source and (not i.indisvalid or not i.indisready) loop
        raise exception 'OPT1: index % is invalid', item.index using hint = 'REINDEX INDEX CONCURRENTLY or drop it; nothing was changed.';
    end loop;
    if exists (select from pg_catalog.pg_class c where c.oid = source and c.relreplident = 'i') then
        raise exception 'OPT1: catalogue.geometrias has an index as its replica identity, expected the default, full or nothing'
            using hint = 'A partitioned table cannot carry it; nothing was changed.';
    end if;
    if exists (select from pg_catalog.pg_class c join pg_catalog.pg_roles r on r.rolname = current_user
                where c.oid = source and c.relforcerowsecurity and not r.rolsuper and not r.rolbypassrls) then
        raise exception 'OPT1: row level security is forced on catalogue.geometrias and % does not bypass it: rows would be left behind', current_user
            using hint = 'Run this change as a role with BYPASSRLS; nothing was changed.';
    end if;
    if pg_catalog.to_regclass('catalogue.geometrias_ids') is not null and not comporta.done('OPT1', 'prepared') then
        raise exception 'OPT1: catalogue.geometrias_ids exists already and is not ours' using hint = 'Rename it; nothing was changed.';
    end if;
end
$$;

-- 2. The routines of this change. They find the partitioned table from the leaf, wherever another change may have moved it.

-- A row that moves to another leaf arrives as DELETE and INSERT: noting its new date first keeps AFTER DELETE from
-- taking the registry's row, and everything that references it, away.
create or replace function comporta.geometrias_ids_move() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    update catalogue.geometrias_ids i set data_referencia = new.data_referencia
     where i.id = new.id and i.data_referencia <> new.data_referencia;
    return new;
end
$$;

create or replace function comporta.geometrias_ids_keep() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    others bigint;
    violated text;
begin
    if tg_op = 'DELETE' then
        delete from catalogue.geometrias_ids i where i.id = old.id and i.data_referencia = old.data_referencia;
    elsif tg_op = 'UPDATE' then
        -- Only here, as a block with a handler is a subtransaction for each row.
        begin
            update catalogue.geometrias_ids i set id = new.id, data_referencia = new.data_referencia where i.id = old.id;
        exception when unique_violation then
            get stacked diagnostics violated = constraint_name;
            if violated <> 'geometrias_ids_pkey' then
                raise;
            end if;
            raise unique_violation using
                message = 'duplicate key value violates unique constraint "geometrias_pkey"',
                detail = format('Key (id)=(%s) already exists.', new.id),
                schema = 'catalogue', table = 'geometrias', constraint = 'geometrias_pkey';
        end;
    else
        insert into catalogue.geometrias_ids (id, data_referencia) values (new.id, new.data_referencia) on conflict (id) do nothing;
        if not found then
            execute format('select count(*) from %s where id = $1', pg_partition_root(tg_relid)) into others using new.id;
            if others <> 1 then
                raise unique_violation using
                    message = 'duplicate key value violates unique constraint "geometrias_pkey"',
                    detail = format('Key (id)=(%s) already exists.', new.id),
                    schema = 'catalogue', table = 'geometrias', constraint = 'geometrias_pkey';
            end if;
        end if;
    end if;
    return null;
end
$$;

-- 3. The partitioned table and its leaves, empty, and the registry. Built once, in one transaction.
do $$
declare
    source regclass := 'catalogue.geometrias';
    item record;
    leaf text;
    options text;
    owner name;
begin
    if comporta.done('OPT1', 'prepared') then
        return;
    end if;
    perform set_config('search_path', '', true);
    select pg_catalog.pg_get_userbyid(relowner), pg_catalog.array_to_string(reloptions, ', ') into owner, options
      from pg_catalog.pg_class where oid = source;

    execute format('create schema comporta_opt1_next authorization %I', owner);
    execute 'create table comporta_opt1_next.geometrias (like catalogue.geometrias
        including defaults including constraints including generated including identity including storage including compression)
        partition by range (data_referencia)';
    execute 'alter table comporta_opt1_next.geometrias add constraint geometrias_pkey primary key (id, data_referencia)';
    perform comporta.carry_grants('catalogue.geometrias', 'comporta_opt1_next.geometrias');
    perform comporta.carry_policies('catalogue.geometrias', 'comporta_opt1_next.geometrias');

    create table catalogue.geometrias_ids (id bigint not null, data_referencia date not null);
    execute format('alter table catalogue.geometrias_ids owner to %I', owner);
    perform comporta.revoke_all('catalogue.geometrias_ids');
    comment on table catalogue.geometrias_ids is 'Every id of catalogue.geometrias once, with its partition key: keeps id unique, and is what foreign keys reference.';

    for item in select 'geometrias_' || year as name,
                       format('from (%L) to (%L)', make_date(year, 1, 1), make_date(year + 1, 1, 1)) as bounds
                  from generate_series(2015, 2028) year
                union all select 'geometrias_default', 'default' loop
        leaf := format('catalogue.%I', item.name);
        execute format('create table %s (like catalogue.geometrias including defaults including constraints
                        including generated including storage including compression)%s',
                       leaf, coalesce(format(' with (%s)', options), ''));
        execute format('alter table %s owner to %I', leaf, owner);
        perform comporta.revoke_all(leaf::regclass);
    end loop;

    -- Statistics targets and column options, which LIKE leaves behind.
    for item in select a.attname, a.attstattarget, a.attoptions, t.name as relation
                  from pg_catalog.pg_attribute a,
                       (select 'catalogue.geometrias_' || year as name from generate_series(2015, 2028) year
                        union all values ('catalogue.geometrias_default'), ('comporta_opt1_next.geometrias')) t
                 where a.attrelid = source and a.attnum > 0 and not a.attisdropped and (a.attstattarget >= 0 or a.attoptions is not null) loop
        if item.attstattarget >= 0 then
            execute format('alter table %s alter column %I set statistics %s', item.relation, item.attname, item.attstattarget);
        end if;
        if item.attoptions is not null and item.relation <> 'comporta_opt1_next.geometrias' then
            execute format('alter table %s alter column %I set (%s)', item.relation, item.attname, array_to_string(item.attoptions, ', '));
        end if;
    end loop;
    for item in select pg_catalog.pg_get_statisticsobjdef(s.oid) as definition, s.stxname, s.stxnamespace::regnamespace::text as schema,
                       obj_description(s.oid, 'pg_statistic_ext') as comment, s.stxstattarget
                  from pg_catalog.pg_statistic_ext s where s.stxrelid = source loop
        execute regexp_replace(replace(item.definition, ' FROM catalogue.geometrias', ' FROM comporta_opt1_next.geometrias'),
                               '^CREATE STATISTICS \S+', format('CREATE STATISTICS comporta_opt1_next.%I', item.stxname));
        execute format('alter statistics comporta_opt1_next.%I owner to %I', item.stxname, owner);
        if item.stxstattarget >= 0 then
            execute format('alter statistics comporta_opt1_next.%I set statistics %s', item.stxname, item.stxstattarget);
        end if;
        if item.comment is not null then
            execute format('comment on statistics comporta_opt1_next.%I is %L', item.stxname, item.comment);
        end if;
    end loop;
    for item in select c.relreplident from pg_catalog.pg_class c where c.oid = source and c.relreplident in ('f', 'n') loop
        execute format('alter table comporta_opt1_next.geometrias replica identity %s', case item.relreplident when 'f' then 'full' else 'nothing' end);
        for leaf in select 'catalogue.geometrias_' || year from generate_series(2015, 2028) year union all values ('catalogue.geometrias_default') loop
            execute format('alter table %s replica identity %s', leaf, case item.relreplident when 'f' then 'full' else 'nothing' end);
        end loop;
    end loop;
    perform comporta.mark('OPT1', 'prepared', jsonb_build_object('parent', 'comporta_opt1_next.geometrias'::regclass::oid::bigint,
                                                               'original', source::oid::bigint));
end
$$;

-- 4. From here on, changed rows are logged. The lock waits for writers in flight, so that no change is missed.
do $$
begin
    if not comporta.done('OPT1', 'logging') then
        delete from comporta.row_log where log like 'OPT1/%';
        call comporta.with_lock(array['catalogue.geometrias'], $body$
            create trigger comporta_log after insert or update or delete on catalogue.geometrias
                for each row execute function comporta.log_row('OPT1/before');
            -- Rows that logical replication writes are changes too: it fires no other trigger.
            alter table catalogue.geometrias enable always trigger comporta_log;
            create trigger comporta_no_truncate before truncate on catalogue.geometrias
                for each statement execute function comporta.refuse_truncate('OPT1');
            select comporta.mark('OPT1', 'logging')
        $body$, 'share row exclusive');
    end if;
end
$$;

-- 5. Bulk copy, one transaction a leaf, ordered by geometry so that a box finds its rows together; months for large leaves.
do $$
declare
    leaf record;
    part record;
    columns text := comporta.writable_columns('catalogue.geometrias');
    expected bigint;
    copied bigint;
    total bigint := 0;
begin
    for leaf in select 'geometrias_' || year as name, make_date(year, 1, 1) as low, make_date(year + 1, 1, 1) as high from generate_series(2015, 2028) year
                union all select 'geometrias_default', null, null loop
        continue when comporta.done('OPT1', 'copied ' || leaf.name);
        if leaf.low is null then
            execute format('insert into catalogue.geometrias_default (%s) select %s from catalogue.geometrias
                            where data_referencia < %L or data_referencia >= %L', columns, columns, '2015-01-01', '2029-01-01');
            get diagnostics copied = row_count;
            total := total + copied;
        else
            select count(*) into expected from catalogue.geometrias g where g.data_referencia >= leaf.low and g.data_referencia < leaf.high;
            for part in select d::date as low, (d + case when expected > 250000 then interval '1 month' else interval '1 year' end)::date as high
                          from generate_series(leaf.low::timestamp, leaf.high::timestamp - interval '1 day',
                                               case when expected > 250000 then interval '1 month' else interval '1 year' end) d loop
                continue when comporta.done('OPT1', format('copied %s %s', leaf.name, part.low));
                execute format('insert into catalogue.%I (%s) select %s from catalogue.geometrias
                                where data_referencia >= %L and data_referencia < %L order by geom', leaf.name, columns, columns, part.low, part.high);
                get diagnostics copied = row_count;
                total := total + copied;
                perform comporta.mark('OPT1', format('copied %s %s', leaf.name, part.low), jsonb_build_object('rows', copied));
                commit;
            end loop;
        end if;
        perform comporta.mark('OPT1', 'copied ' || leaf.name);
        commit;
        raise notice '% rows copied (up to %)', total, leaf.name;
    end loop;
end
$$;

-- 6. Keys and indexes of each leaf, one transaction each, named after the leaf; then the parent's own, which adopt them.
do $$
declare
    leaf text;
    item record;
    index_name text;
begin
    for leaf in select 'geometrias_' || year from generate_series(2015, 2028) year union all values ('geometrias_default') loop
        continue when comporta.done('OPT1', 'indexed ' || leaf);
        perform set_config('search_path', '', true);
        perform set_config('maintenance_work_mem', '256MB', true);
        execute format('alter table catalogue.%I add constraint %I primary key (id, data_referencia)', leaf, leaf || '_pkey');
        for item in select c.relname, pg_catalog.pg_get_indexdef(i.indexrelid) as definition
                      from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
                     where i.indrelid = 'catalogue.geometrias'::regclass and not i.indisprimary order by c.relname loop
            index_name := case when item.relname like 'geometrias\_%' then leaf || substr(item.relname, 11) else leaf || '_' || item.relname end;
            execute pg_catalog.regexp_replace(item.definition, '^(CREATE (UNIQUE )?INDEX) (?:"(?:[^"]|"")+"|\S+) ON catalogue\.geometrias ',
                                              format('\1 %I ON catalogue.%I ', index_name, leaf));
        end loop;
        if leaf <> 'geometrias_default' then
            -- ATTACH finds this and does not scan the leaf.
            execute format('alter table catalogue.%I add constraint comporta_bounds check (data_referencia >= %L and data_referencia < %L)',
                           leaf, make_date(right(leaf, 4)::integer, 1, 1), make_date(right(leaf, 4)::integer + 1, 1, 1));
        end if;
        perform comporta.mark('OPT1', 'indexed ' || leaf);
        commit;
    end loop;
end
$$;

-- Outbound keys, one leaf at a time: added without a scan, then validated while the referenced table stays in use.
do $$
declare
    leaf text;
    keys jsonb;
    item record;
begin
    for leaf in select 'catalogue.geometrias_' || year from generate_series(2015, 2028) year union all values ('catalogue.geometrias_default') loop
        continue when comporta.done('OPT1', 'keyed ' || leaf);
        keys := comporta.outbound_keys('catalogue.geometrias');
        for item in select * from pg_catalog.jsonb_to_recordset(keys) as x (name text, definition text, "references" text) loop
            if not exists (select from pg_catalog.pg_constraint c where c.conrelid = leaf::regclass and c.conname = item.name) then
                call comporta.with_lock(array[item."references"],
                    format('alter table %s add constraint %I %s not valid', leaf, item.name, item.definition), 'share row exclusive');
            end if;
            execute format('alter table %s validate constraint %I', leaf, item.name);
            commit;
        end loop;
        perform comporta.mark('OPT1', 'keyed ' || leaf);
        commit;
    end loop;
end
$$;

do $$
declare
    leaf text;
    item record;
begin
    if comporta.done('OPT1', 'attached') then
        return;
    end if;
    perform set_config('search_path', '', true);
    for item in select c.relname, pg_catalog.pg_get_indexdef(i.indexrelid) as definition
                  from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
                 where i.indrelid = 'catalogue.geometrias'::regclass and not i.indisprimary order by c.relname loop
        execute pg_catalog.regexp_replace(item.definition, '^(CREATE (UNIQUE )?INDEX) (?:"(?:[^"]|"")+"|\S+) ON catalogue\.geometrias ',
                                          format('\1 %I ON comporta_opt1_next.geometrias ', item.relname));
    end loop;
    execute 'alter table comporta_opt1_next.geometrias attach partition catalogue.geometrias_default default';
    for leaf in select 'geometrias_' || year from generate_series(2015, 2028) year loop
        execute format('alter table comporta_opt1_next.geometrias attach partition catalogue.%I for values from (%L) to (%L)',
                       leaf, make_date(right(leaf, 4)::integer, 1, 1), make_date(right(leaf, 4)::integer + 1, 1, 1));
        execute format('alter table catalogue.%I drop constraint comporta_bounds', leaf);
    end loop;
    perform comporta.mark('OPT1', 'attached');
end
$$;

-- The parent's keys adopt those of the leaves. That takes ACCESS EXCLUSIVE on the referenced table, for moments.
do $$
declare
    item record;
begin
    if comporta.done('OPT1', 'swapped') then
        return;
    end if;
    for item in select * from pg_catalog.jsonb_to_recordset(comporta.outbound_keys('catalogue.geometrias')) as x (name text, definition text, "references" text) loop
        continue when exists (select from pg_catalog.pg_constraint c where c.conrelid = 'comporta_opt1_next.geometrias'::regclass and c.conname = item.name);
        call comporta.with_lock(array[item."references"],
            format('alter table comporta_opt1_next.geometrias add constraint %I %s', item.name, item.definition));
    end loop;
end
$$;

do $$
begin
    if not comporta.done('OPT1', 'commented') then
        perform comporta.carry_comments('catalogue.geometrias', 'comporta_opt1_next.geometrias');
        perform comporta.mark('OPT1', 'commented');
    end if;
end
$$;

-- 7. A first replay removes the rows that moved between leaves while these were copied; then ids are unique.
do $$
begin
    if not comporta.done('OPT1', 'caught up') then
        call comporta.replay('OPT1/before', 'catalogue.geometrias', 'comporta_opt1_next.geometrias');
        perform comporta.mark('OPT1', 'caught up');
    end if;
end
$$;

do $$
begin
    if comporta.done('OPT1', 'registered') then
        return;
    end if;
    insert into catalogue.geometrias_ids (id, data_referencia) select g.id, g.data_referencia from comporta_opt1_next.geometrias g;
    alter table catalogue.geometrias_ids add constraint geometrias_ids_pkey primary key (id);
    create trigger geometrias_ids_move before insert on comporta_opt1_next.geometrias
        for each row execute function comporta.geometrias_ids_move();
    create trigger geometrias_ids_keep after insert or delete on comporta_opt1_next.geometrias
        for each row execute function comporta.geometrias_ids_keep();
    create trigger geometrias_ids_rekey after update on comporta_opt1_next.geometrias
        for each row when (old.id <> new.id or old.data_referencia <> new.data_referencia)
        execute function comporta.geometrias_ids_keep();
    create trigger comporta_log after insert or update or delete on comporta_opt1_next.geometrias
        for each row execute function comporta.log_row('OPT1/after');
    alter table comporta_opt1_next.geometrias enable always trigger comporta_log;
    create trigger comporta_no_truncate before truncate on comporta_opt1_next.geometrias
        for each statement execute function comporta.refuse_truncate('OPT1');
    perform comporta.mark('OPT1', 'registered');
end
$$;

do $$
begin
    if not comporta.done('OPT1', 'analyzed') then
        analyze comporta_opt1_next.geometrias;
        analyze catalogue.geometrias_ids;
        perform comporta.mark('OPT1', 'analyzed');
    end if;
end
$$;

-- 8. The swap. Everything in this function runs under ACCESS EXCLUSIVE.
create or replace function comporta.opt1_swap_in() returns void
    language plpgsql set search_path = ''
as $$
declare
    original regclass := 'catalogue.geometrias';
    parent regclass := 'comporta_opt1_next.geometrias';
    apart regproc[] := array['comporta.log_row', 'comporta.refuse_truncate', 'comporta.geometrias_ids_move', 'comporta.geometrias_ids_keep']::regproc[];
    dependants jsonb := comporta.dependants(original);
    keys jsonb := comporta.inbound_keys(original);
    owner name := (select pg_catalog.pg_get_userbyid(relowner) from pg_catalog.pg_class where oid = original);
    item record;
begin
    -- Days can lie between a killed run and this one.
    for item in select comporta.shape_differences(original, parent) as what limit 1 loop
        raise exception 'OPT1: catalogue.geometrias was altered while it was copied: %', item.what
            using hint = 'Run the rollback script, then apply again; nobody has seen the copy.';
    end loop;
    while comporta.replay_batch('OPT1/before', original, parent, 10000) > 0 loop
    end loop;
    delete from comporta.row_log where log like 'OPT1/%';
    perform comporta.carry_grants(original, parent);
    perform comporta.carry_sequence(original, parent, 'id');
    perform comporta.carry_policies(original, parent);
    perform comporta.carry_triggers(original, parent, apart);
    perform comporta.carry_comments(original, parent);
    perform comporta.carry_publications(original, parent);
    drop trigger comporta_log on catalogue.geometrias;
    drop trigger comporta_no_truncate on catalogue.geometrias;
    alter table catalogue.geometrias disable trigger user;
    -- A table that stands by must not veto what happens elsewhere: its outbound keys go, and come back at the rollback.
    for item in select conname from pg_catalog.pg_constraint where conrelid = original and contype = 'f' loop
        execute pg_catalog.format('alter table catalogue.geometrias drop constraint %I', item.conname);
    end loop;
    perform comporta.mark('OPT1', 'inbound keys', keys);
    perform comporta.repoint_keys(keys, 'catalogue.geometrias_ids');
    execute pg_catalog.format('create schema comporta_opt1_before authorization %I', owner);
    for item in select s.stxname from pg_catalog.pg_statistic_ext s where s.stxrelid = original and s.stxnamespace = 'catalogue'::regnamespace loop
        execute pg_catalog.format('alter statistics catalogue.%I set schema comporta_opt1_before', item.stxname);
    end loop;
    alter table catalogue.geometrias set schema comporta_opt1_before;
    for item in select s.stxname from pg_catalog.pg_statistic_ext s where s.stxrelid = parent loop
        execute pg_catalog.format('alter statistics comporta_opt1_next.%I set schema catalogue', item.stxname);
    end loop;
    alter table comporta_opt1_next.geometrias set schema catalogue;
    perform comporta.rebind(dependants);
    perform comporta.mark('OPT1', 'swapped', pg_catalog.jsonb_build_object('parent', parent::oid::bigint, 'original', original::oid::bigint));
end
$$;

do $$
declare
    item record;
begin
    if comporta.done('OPT1', 'swapped') then
        return;
    end if;
    -- A publication that does not publish through the root would name leaves that its subscribers do not know.
    for item in select p.pubname from pg_catalog.pg_publication p join pg_catalog.pg_publication_rel r on r.prpubid = p.oid
                 where r.prrelid = 'catalogue.geometrias'::regclass and not p.pubviaroot loop
        perform comporta.mark('OPT1', 'publication ' || item.pubname);
        execute format('alter publication %I set (publish_via_partition_root = true)', item.pubname);
    end loop;
    commit;
    call comporta.replay('OPT1/before', 'catalogue.geometrias', 'comporta_opt1_next.geometrias', 5);
    -- The copy comes first: whoever is in its leaves (autovacuum) is waited for while people still work.
    call comporta.with_lock(array['comporta_opt1_next.geometrias'] || comporta.swap_locks('catalogue.geometrias'), 'select comporta.opt1_swap_in()');
end
$$;

-- 9. After the swap: validate the keys that point at the registry, and clear up.
call comporta.validate_keys(coalesce(comporta.detail('OPT1', 'inbound keys'), '[]'::jsonb));

drop schema if exists comporta_opt1_next;

drop function if exists comporta.opt1_swap_in();

select comporta.release('OPT1');
