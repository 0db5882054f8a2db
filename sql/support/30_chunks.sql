-- Purpose:     packed chunks: a columnar layout for cold leaves of a range-partitioned table, read and written through
--              the same name, and the way back. Used by OPT2 only; nothing happens until its apply script runs.
-- Requires:    10_core.sql, 20_swap.sql. To run: a superuser (a thaw must not fire the catalogue's triggers: session_replication_role).
-- Locks:       none here; each routine names its own.
-- Transaction: yes; installing again is harmless.
--
-- Words. hot: the partitioned table itself, moved to schema comporta_opt2. cold: schema comporta_opt2_cold, which nobody
-- else may use: chunk (one array for each packed column), locator "cold" (one row for each live cold row: its key, the
-- columns that policies, foreign keys and spatial searches need, and where in the chunks the rest is), tombstone (places in
-- chunks that hold no live row any more). thaw: move a cold row back to the hot table, unseen by the catalogue's triggers.
--
-- Why geometry stays row by row, sorted, in the locator: coordinates are doubles of full entropy (lz4 saves 5 %), and a
-- policy makes && a filter that runs on every row, which would unpack an array for each of them.

-- The one place to change what is cold and how it is packed. Read when OPT2 is applied.
create or replace function comporta.cold_settings(
    out cold_until date,            -- a leaf is cold when its whole range ends on or before this day
    out chunk_rows integer,         -- rows in a chunk: more compress better, fewer are quicker to read by id
    out inline_bytes integer,       -- text up to this average width stands in the locator too, not only in the arrays
    out index_methods text[],       -- columns with an index of these methods stand in the locator and keep that index
    out keep_row_store boolean      -- true keeps the emptied leaf after its copy was verified (no space is won then)
)
    language sql stable set search_path = pg_catalog, pg_temp
as $$ select date '2021-01-01', 256, 48, array['gist'], false $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Carrying what hangs on a relation
-- ---------------------------------------------------------------------------------------------------------------

create or replace function comporta.cold_copy_acl(source regclass, target regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    entry record;
begin
    for entry in select distinct a.grantee from pg_class c, aclexplode(c.relacl) a where c.oid = target loop
        execute format('revoke all on %s from %s', target, case when entry.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(entry.grantee)) end);
    end loop;
    for entry in
        select a.grantee, a.privilege_type, a.is_grantable, null::name as attname from pg_class c, aclexplode(c.relacl) a where c.oid = source
        union all
        select a.grantee, a.privilege_type, a.is_grantable, t.attname from pg_attribute t, aclexplode(t.attacl) a where t.attrelid = source and t.attnum > 0
    loop
        continue when entry.attname is not null
             and not exists (select from pg_attribute where attrelid = target and attname = entry.attname and not attisdropped);
        execute format('grant %s %s on %s to %s %s', entry.privilege_type, case when entry.attname is null then '' else format('(%I)', entry.attname) end,
                       target, case when entry.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(entry.grantee)) end,
                       case when entry.is_grantable then 'with grant option' else '' end);
    end loop;
end
$$;

create or replace function comporta.cold_copy_comments(source regclass, target regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    for found in
        select case when t.relkind = 'v' then 'view' else 'table' end as kind, format('%s', target) as what, d.description
          from pg_description d, pg_class t where t.oid = target and d.classoid = 'pg_class'::regclass and d.objoid = source and d.objsubid = 0
        union all
        select 'column', format('%s.%I', target, a.attname), d.description
          from pg_description d join pg_attribute a on a.attrelid = d.objoid and a.attnum = d.objsubid
         where d.classoid = 'pg_class'::regclass and d.objoid = source and d.objsubid > 0
    loop
        execute format('comment on %s %s is %L', found.kind, found.what, found.description);
    end loop;
end
$$;

-- The same policies on another table: names of columns are equal there. POLICIES reads best while TARGET bears SOURCE's
-- name, since a policy with a subquery qualifies its columns.
create or replace function comporta.cold_copy_policies(source regclass, target regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
    flags record;
begin
    for found in
        select p.*, pg_get_expr(p.polqual, p.polrelid) as using_text, pg_get_expr(p.polwithcheck, p.polrelid) as check_text,
               (select string_agg(case when r = 0 then 'public' else quote_ident(pg_get_userbyid(r)) end, ', ') from unnest(p.polroles) r) as roles
          from pg_policy p where p.polrelid = source
    loop
        execute format('create policy %I on %s as %s for %s to %s %s %s', found.polname, target,
                       case when found.polpermissive then 'permissive' else 'restrictive' end,
                       case found.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
                       found.roles, coalesce('using (' || found.using_text || ')', ''), coalesce('with check (' || found.check_text || ')', ''));
    end loop;
    select c.relrowsecurity, c.relforcerowsecurity into flags from pg_class c where c.oid = source;
    if flags.relrowsecurity then
        execute format('alter table %s enable row level security', target);
    end if;
    if flags.relforcerowsecurity then
        execute format('alter table %s force row level security', target);
    end if;
end
$$;

-- An empty table in the shape of a leaf: everything but rows, foreign keys and what its parent gives it when attached.
create or replace function comporta.cold_copy_leaf(source regclass, target_schema text, with_indexes boolean) returns regclass
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    leaf pg_class;
    target regclass;
    found record;
begin
    select c.* into leaf from pg_class c where c.oid = source;
    execute format('create table %I.%I (like %s including all excluding indexes excluding identity excluding statistics)', target_schema, leaf.relname, source);
    target := format('%I.%I', target_schema, leaf.relname)::regclass;
    execute format('alter table %s owner to %I', target, pg_get_userbyid(leaf.relowner));
    if leaf.reloptions is not null then
        execute format('alter table %s set (%s)', target, array_to_string(leaf.reloptions, ', '));
    end if;
    for found in select unnest(t.reloptions) as setting from pg_class t where t.oid = leaf.reltoastrelid and t.reloptions is not null loop
        execute format('alter table %s set (toast.%s)', target, found.setting);
    end loop;
    for found in select a.attname, a.attstattarget, a.attoptions from pg_attribute a
                  where a.attrelid = source and a.attnum > 0 and not a.attisdropped and (a.attstattarget >= 0 or a.attoptions is not null) loop
        if found.attstattarget >= 0 then
            execute format('alter table %s alter column %I set statistics %s', target, found.attname, found.attstattarget);
        end if;
        if found.attoptions is not null then
            execute format('alter table %s alter column %I set (%s)', target, found.attname, array_to_string(found.attoptions, ', '));
        end if;
    end loop;
    perform comporta.cold_copy_acl(source, target);
    perform comporta.cold_copy_comments(source, target);
    perform comporta.cold_copy_policies(source, target);
    if with_indexes then
        perform comporta.cold_copy_indexes(source, target);
    end if;
    return target;
end
$$;

create or replace function comporta.cold_copy_indexes(source regclass, target regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
    made text;
    place text := (select quote_ident(n.nspname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = target);
begin
    for found in
        select i.*, ic.relname, k.oid as constraint_oid, k.conname, pg_get_constraintdef(k.oid) as constraint_text, pg_get_indexdef(i.indexrelid) as index_text,
               obj_description(i.indexrelid, 'pg_class') as index_comment, obj_description(k.oid, 'pg_constraint') as constraint_comment
          from pg_index i join pg_class ic on ic.oid = i.indexrelid
          left join pg_constraint k on k.conindid = i.indexrelid and k.conrelid = i.indrelid and k.contype in ('p', 'u', 'x')
         where i.indrelid = source order by i.indisprimary desc, ic.relname
    loop
        made := format('%s.%I', place, found.relname);
        if found.constraint_oid is not null then
            execute format('alter table %s add constraint %I %s', target, found.conname, found.constraint_text);
            if found.constraint_comment is not null then
                execute format('comment on constraint %I on %s is %L', found.conname, target, found.constraint_comment);
            end if;
        else
            execute replace(found.index_text, ' ON ' || source || ' USING ', ' ON ' || target || ' USING ');
        end if;
        if found.index_comment is not null then
            execute format('comment on index %s is %L', made, found.index_comment);
        end if;
        if found.indisclustered then
            execute format('alter table %s cluster on %I', target, found.relname);
        end if;
        if found.indisreplident then
            execute format('alter table %s replica identity using index %I', target, found.relname);
        end if;
    end loop;
    if (select relreplident from pg_class where oid = source) in ('f', 'n') then
        execute format('alter table %s replica identity %s', target, (select case relreplident when 'f' then 'full' else 'nothing' end from pg_class where oid = source));
    end if;
end
$$;

-- Statements that give TARGET what belongs to SOURCE by name and cannot stand twice: extended statistics, and triggers of
-- the leaf's own. Run in the cut-over, when SOURCE has left the schema.
create or replace function comporta.cold_take_over(source regclass, target regclass, source_place text, target_place text) returns text
    language sql stable set search_path = ''
as $$
    select coalesce(pg_catalog.string_agg(x.line, ' ' order by x.line), '')
    from (
        select pg_catalog.format('alter statistics %I.%I set schema comporta_opt2_cold; %s; alter statistics %I.%I owner to %I;%s%s',
                   n.nspname, s.stxname,
                   pg_catalog.replace(pg_catalog.pg_get_statisticsobjdef(s.oid), ' FROM ' || source_place, ' FROM ' || target_place),
                   n.nspname, s.stxname, pg_catalog.pg_get_userbyid(s.stxowner),
                   case when s.stxstattarget >= 0 then pg_catalog.format(' alter statistics %I.%I set statistics %s;', n.nspname, s.stxname, s.stxstattarget) else '' end,
                   coalesce(pg_catalog.format(' comment on statistics %I.%I is %L;', n.nspname, s.stxname, pg_catalog.obj_description(s.oid, 'pg_statistic_ext')), '')) as line
          from pg_catalog.pg_statistic_ext s join pg_catalog.pg_namespace n on n.oid = s.stxnamespace
         where s.stxrelid = source
        union all
        select pg_catalog.replace(pg_catalog.pg_get_triggerdef(t.oid), ' ON ' || source_place || ' ', ' ON ' || target_place || ' ') || ';'
          from pg_catalog.pg_trigger t
         where t.tgrelid = source and not t.tgisinternal and t.tgparentid = 0 and t.tgname not like 'comporta_opt2%'
    ) x
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Layout
-- ---------------------------------------------------------------------------------------------------------------

create or replace function comporta.cold_refuse_unless_fit(parent regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    problem text;
begin
    select string_agg(x.what, '; ') into problem from (
        select 'it is not partitioned by range of one date column (apply OPT1 first)' as what
         where not exists (select from pg_partitioned_table p join pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0]
                            where p.partrelid = parent and p.partstrat = 'r' and p.partnatts = 1 and a.atttypid = 'date'::regtype)
        union all
        select 'its primary key is not (one column, partition key)'
         where not exists (select from pg_index i join pg_partitioned_table p on p.partrelid = i.indrelid
                            where i.indrelid = parent and i.indisprimary and i.indnkeyatts = 2 and p.partattrs[0] = any (i.indkey::int2[]))
        union all
        select format('column %s is an array; arrays cannot be packed in arrays', a.attname) from pg_attribute a join pg_type t on t.oid = a.atttypid
         where a.attrelid = parent and a.attnum > 0 and not a.attisdropped and (t.typcategory = 'A' or t.typarray = 0)
        union all
        select format('materialized view %s reads it', c.oid::regclass) from pg_depend d join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
          join pg_class c on c.oid = r.ev_class where d.refclassid = 'pg_class'::regclass and d.refobjid = parent and c.relkind = 'm'
        union all
        select format('policy %s of %s reads it', p.polname, p.polrelid::regclass) from pg_depend d join pg_policy p on d.classid = 'pg_policy'::regclass and p.oid = d.objid
         where d.refclassid = 'pg_class'::regclass and d.refobjid = parent and p.polrelid <> parent
        union all
        select format('function %s binds to it in its BEGIN ATOMIC body', d.objid::regprocedure) from pg_depend d
         where d.classid = 'pg_proc'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = parent
        union all
        select format('%s has a column of its row type', a.attrelid::regclass) from pg_class c join pg_attribute a on a.atttypid = c.reltype
          join pg_class t on t.oid = a.attrelid where c.oid = parent and t.relkind in ('r', 'p', 'm') and not a.attisdropped
        union all
        select format('foreign key %s of %s points to it', k.conname, k.conrelid::regclass) from pg_constraint k
         where k.confrelid = parent and k.contype = 'f' and k.conparentid = 0
        union all
        select format('rule %s stands on it', r.rulename) from pg_rewrite r where r.ev_class = parent
    ) x;
    if problem is not null then
        raise exception 'OPT2 cannot take % over: %', parent, problem
            using errcode = 'object_not_in_prerequisite_state', hint = 'Nothing was changed. Remove what is named, or leave OPT2 out of the release.';
    end if;
    if not (select rolsuper from pg_roles where rolname = current_user) then
        raise exception 'OPT2 must be applied by a superuser, found %', current_user
            using errcode = 'insufficient_privilege', hint = 'Moving a row between layouts must not fire the catalogue''s triggers (session_replication_role).';
    end if;
end
$$;

-- Makes both schemas and every object that packing needs, empty. Idempotent: a second call finds them and returns.
create or replace function comporta.cold_prepare(parent regclass, logical_name text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    settings record;
    owner_name text := (select quote_ident(pg_get_userbyid(relowner)) from pg_class where oid = parent);
    relation_name text := (select relname from pg_class where oid = parent);
    key_name text;
    part_name text;
    key_type text;
    sampled text := (select string_agg(format('avg(pg_column_size(%I))::integer as %I', a.attname, a.attname), ', ') from pg_attribute a
                      where a.attrelid = parent and a.attnum > 0 and not a.attisdropped);
    widths jsonb;
    lz4 text := case when exists (select from pg_settings where name = 'default_toast_compression' and 'lz4' = any (enumvals)) then 'compression lz4' else '' end;
    has_columnar boolean := exists (select from pg_am where amname = 'columnar');
    column_row record;
    columns text;
begin
    if to_regclass('comporta_opt2_cold.layout') is not null then
        return;
    end if;
    select * into settings from comporta.cold_settings();
    select quote_ident(a.attname) into part_name from pg_partitioned_table p join pg_attribute a on a.attrelid = p.partrelid and a.attnum = p.partattrs[0] where p.partrelid = parent;
    select quote_ident(a.attname), format_type(a.atttypid, a.atttypmod) into key_name, key_type
      from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])
     where i.indrelid = parent and i.indisprimary and quote_ident(a.attname) <> part_name;
    execute format('select coalesce(to_jsonb(s), ''{}'') from (select %s from (select * from %s limit 2000) r) s', sampled, parent) into widths;

    execute 'create schema if not exists comporta_opt2';
    execute 'create schema if not exists comporta_opt2_cold';
    execute format('alter schema comporta_opt2 owner to %s', owner_name);
    execute format('alter schema comporta_opt2_cold owner to %s', owner_name);

    execute $q$
        create table comporta_opt2_cold.layout (
            logical_name text not null, parent regclass not null, relation_name name not null, key_name text not null, part_name text not null,
            cold_until date not null, chunk_rows integer not null, index_methods text[] not null, keep_row_store boolean not null, columnar boolean not null)
    $q$;
    execute format('insert into comporta_opt2_cold.layout values (%L, %s, %L, %L, %L, %L, %s, %L, %L, %L)', logical_name, parent::oid, relation_name, key_name, part_name,
                   settings.cold_until, settings.chunk_rows, settings.index_methods, settings.keep_row_store, has_columnar);

    execute $q$
        create table comporta_opt2_cold.column_layout (
            ordinal integer primary key, name text not null, type text not null, base_type text not null, collation_text text not null, inline boolean not null, packed boolean not null, generated boolean not null,
            identity "char" not null, alignment integer not null)
    $q$;
    insert into comporta_opt2_cold.column_layout
    select row_number() over (order by a.attnum), quote_ident(a.attname), format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, null),
           case when a.attcollation <> t.typcollation then format(' collate %I.%I', cn.nspname, co.collname) else '' end,
           t.typlen > 0
               or a.attname in (select x.attname from pg_index i join pg_attribute x on x.attrelid = i.indrelid and x.attnum = any (i.indkey::int2[])
                                 where i.indrelid = parent and i.indisprimary)
               or a.attnum in (select d.refobjsubid from pg_policy p join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
                                and d.refclassid = 'pg_class'::regclass and d.refobjid = parent where p.polrelid = parent)
               or a.attnum in (select unnest(k.conkey) from pg_constraint k where k.conrelid = parent and k.contype = 'f')
               or a.attnum in (select i.indkey[0] from pg_index i join pg_class ic on ic.oid = i.indexrelid join pg_am am on am.oid = ic.relam
                                where i.indrelid = parent and i.indnatts = 1 and i.indpred is null and am.amname = any (settings.index_methods))
               or (t.typcategory = 'S' and coalesce((widths ->> a.attname)::integer, 0) <= settings.inline_bytes),
           false, a.attgenerated <> '', a.attidentity,
           case when t.typlen < 0 then 0 else case t.typalign when 'd' then 8 when 'i' then 4 when 's' then 2 else 1 end end
      from pg_attribute a join pg_type t on t.oid = a.atttypid
      left join pg_collation co on co.oid = a.attcollation left join pg_namespace cn on cn.oid = co.collnamespace
     where a.attrelid = parent and a.attnum > 0 and not a.attisdropped;
    -- Packed: all but what is both wide and in the locator already.
    update comporta_opt2_cold.column_layout c
       set packed = not c.inline or c.alignment > 0 or coalesce((select w.value::integer from jsonb_each_text(widths) w where quote_ident(w.key) = c.name), 0) <= settings.inline_bytes;

    execute $q$
        create table comporta_opt2_cold.leaf (
            name text primary key, schema_name text not null, bound text not null, check_text text not null, high date not null,
            state text not null default 'planned', first_chunk integer, next_row bigint not null default 0, row_count bigint, verified_at timestamptz)
    $q$;
    execute format('create table comporta_opt2_cold.change_log (seq bigint generated always as identity primary key, leaf text not null, key %s not null)', key_type);
    execute 'create table comporta_opt2_cold.tombstone (chunk integer, place smallint, stale boolean not null default false, row_hash numeric not null, primary key (chunk, place))';
    execute $q$
        create function comporta_opt2_cold.log_change() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp
        as 'begin
            if tg_op = ''TRUNCATE'' then
                raise exception ''%.% cannot be truncated while OPT2 is moving it'', tg_table_schema, tg_table_name
                    using errcode = ''object_in_use'', hint = ''Try again when the change is done.'';
            end if;
            if tg_op <> ''INSERT'' then insert into comporta_opt2_cold.change_log (leaf, key) values (tg_argv[0], old.$q$ || key_name || $q$); end if;
            if tg_op <> ''DELETE'' then insert into comporta_opt2_cold.change_log (leaf, key) values (tg_argv[0], new.$q$ || key_name || $q$); end if;
            return null;
        end'
    $q$;

    -- Before a leaf is cold, its part of the locator follows the leaf through the log alone: a cascading foreign key waits.
    execute $q$
        create function comporta_opt2_cold.keep_still() returns trigger language plpgsql set search_path = pg_catalog, pg_temp
        as 'begin
            return case when current_setting(''comporta_opt2.replay'', true) = ''on'' then old end;
        end'
    $q$;

    -- The chunks: an array for each column, or, where the access method exists, rows of a columnar table.
    select string_agg(format('%s %s[]%s %s', c.name, c.type, c.collation_text, case when lz4 <> '' then lz4 else '' end), ', ' order by c.ordinal) into columns
      from comporta_opt2_cold.column_layout c where c.packed;
    execute format('create table comporta_opt2_cold.chunk (chunk integer primary key, leaf text not null, row_count integer not null, first_date date, last_date date,
                       bbox public.geometry, checksum numeric not null%s)', case when has_columnar then '' else ', ' || columns end);
    execute 'create index chunk_bbox_idx on comporta_opt2_cold.chunk using gist (bbox)';
    execute 'create index chunk_leaf_idx on comporta_opt2_cold.chunk (leaf, first_date, last_date)';
    select string_agg(c.name, ', ' order by c.ordinal) into columns from comporta_opt2_cold.column_layout c where c.packed;
    if has_columnar then
        execute format('create table comporta_opt2_cold.columnar_row (chunk integer not null, place smallint not null, %s) using columnar',
                       (select string_agg(format('%s %s%s', c.name, c.type, c.collation_text), ', ' order by c.ordinal) from comporta_opt2_cold.column_layout c where c.packed));
        execute 'create index columnar_row_idx on comporta_opt2_cold.columnar_row using btree (chunk, place)';
        execute format('create view comporta_opt2_cold.packed as select r.chunk, c.leaf, r.place, %s from comporta_opt2_cold.columnar_row r join comporta_opt2_cold.chunk c using (chunk)',
                       (select string_agg('r.' || c.name, ', ' order by c.ordinal) from comporta_opt2_cold.column_layout c where c.packed));
    else
        execute format('create view comporta_opt2_cold.packed as select c.chunk, c.leaf, u.place::smallint as place, %s
                          from comporta_opt2_cold.chunk c cross join lateral unnest(%s) with ordinality as u (%s, place)',
                       (select string_agg(format('u.%s', c.name), ', ' order by c.ordinal) from comporta_opt2_cold.column_layout c where c.packed),
                       (select string_agg('c.' || c.name, ', ' order by c.ordinal) from comporta_opt2_cold.column_layout c where c.packed), columns);
    end if;

    -- A packed column of one row. Immutable because a chunk never changes; it must never be called for a chunk that is
    -- not there, hence the error (an index would keep a wrong entry).
    for column_row in select * from comporta_opt2_cold.column_layout c where not c.inline loop
        execute format($q$
            create function comporta_opt2_cold.%I(chunk_number integer, place_number smallint) returns %s
                language plpgsql immutable strict parallel safe security definer cost 200 set search_path = pg_catalog, pg_temp
            as $f$
            declare
                found_value %s;
            begin
                select %s into found_value from %s;
                if not found then
                    raise exception 'chunk %% of the cold store is not there', chunk_number using errcode = 'data_corrupted', hint = 'Run the verify script of OPT2.';
                end if;
                return found_value;
            end
            $f$
        $q$, 'cold_' || replace(column_row.name, '"', ''), column_row.base_type, column_row.base_type,
            case when has_columnar then 'c.' || column_row.name else format('c.%s[place_number]', column_row.name) end,
            case when has_columnar then 'comporta_opt2_cold.columnar_row c where c.chunk = chunk_number and c.place = place_number'
                 else 'comporta_opt2_cold.chunk c where c.chunk = chunk_number' end);
    end loop;

    -- The locator bears the table's own name while its policies are written, so that qualified columns resolve.
    select string_agg(format('%s %s%s', c.name, c.type, c.collation_text), ', ' order by c.alignment desc, c.ordinal) into columns
      from (select c.ordinal, c.name, c.type, c.collation_text, c.alignment from comporta_opt2_cold.column_layout c where c.inline
            union all select -2, 'chunk', 'integer not null', '', 4 union all select -1, 'place', 'smallint not null', '', 2) c;
    execute format('create table comporta_opt2_cold.%I (%s, primary key (%s, %s)) partition by range (%s)', relation_name, columns, key_name, part_name, part_name);
    perform comporta.cold_copy_policies(parent, format('comporta_opt2_cold.%I', relation_name)::regclass);
    execute format('alter table comporta_opt2_cold.%I rename to cold', relation_name);
    perform comporta.cold_grant_readers(parent);
    for column_row in select * from comporta.cold_wanted_indexes(parent) loop
        execute format(column_row.definition, 'comporta_opt2_cold.cold');
    end loop;

    for column_row in select c.oid::regclass as name from pg_class c where c.relnamespace = 'comporta_opt2_cold'::regnamespace and c.relkind in ('r', 'p', 'v') loop
        execute format('alter table %s owner to %s', column_row.name, owner_name);
    end loop;
    for column_row in select p.oid::regprocedure as name from pg_proc p where p.pronamespace = 'comporta_opt2_cold'::regnamespace loop
        execute format('alter function %s owner to %s', column_row.name, owner_name);
        execute format('revoke all on function %s from public', column_row.name);
    end loop;
    perform comporta.cold_make_writers(parent);
end
$$;
comment on function comporta.cold_prepare(regclass, text) is 'Builds the empty cold store of OPT2 beside PARENT.';

-- Indexes on packed columns that the locator keeps, as templates with one %s for the table.
create or replace function comporta.cold_wanted_indexes(parent regclass) returns table (definition text)
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute $q$
        select format('create index on %%s using %s (%s %s)', am.amname, c.name, (select format('%I.%I', on_.nspname, oc.opcname) from pg_opclass oc join pg_namespace on_ on on_.oid = oc.opcnamespace where oc.oid = i.indclass[0]))
          from pg_index i join pg_class ic on ic.oid = i.indexrelid join pg_am am on am.oid = ic.relam
          join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
          join comporta_opt2_cold.column_layout c on c.name = quote_ident(a.attname)
          cross join comporta_opt2_cold.layout l
         where i.indrelid = $1 and i.indnatts = 1 and i.indpred is null and am.amname = any (l.index_methods)
         union all select 'create index on %s using brin (chunk) with (pages_per_range = 8)'
    $q$ using parent;
end
$$;

-- How a column reads from the locator.
create or replace function comporta.cold_expression(column_name text) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
begin
    select * into found from comporta_opt2_cold.column_layout c where c.name = column_name;
    return case when found.inline then found.name
                else format('comporta_opt2_cold.%I(chunk, place)%s%s', 'cold_' || replace(found.name, '"', ''),
                            case when found.type <> found.base_type then '::' || found.type else '' end, found.collation_text) end;
end
$$;

-- Columns in the table's order, each after a prefix.
create or replace function comporta.cold_columns(prefix text default '', which text default 'all') returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return (select string_agg(prefix || c.name, ', ' order by c.ordinal) from comporta_opt2_cold.column_layout c
             where case which when 'inline' then c.inline when 'packed' then c.packed when 'far' then not c.inline when 'stored' then not c.generated else true end);
end
$$;

-- The hash of a row, from its columns in the table's order; callers pin the settings that its text depends on.
create or replace function comporta.cold_row_hash(prefix text) returns text
    language sql stable set search_path = pg_catalog, pg_temp
as $$ select format('hashtextextended(row(%s)::text, 0)::numeric', comporta.cold_columns(prefix)) $$;

-- Every cold row of a leaf in full, from its part of the locator and its chunks (each array is unpacked once); policies
-- are not applied. FIRST and LAST bound the chunks; null for all of the leaf.
create or replace function comporta.cold_full_rows(leaf_name text, first_chunk integer default null, last_chunk integer default null) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    far text := comporta.cold_columns('p.', 'far');
    bounds text := case when first_chunk is null then '' else format(' and %s.chunk between %s and %s', '%1$s', first_chunk, last_chunk) end;
begin
    return format('select c.chunk, c.place, %s from comporta_opt2_cold.%I c %s where true %s',
                  (select string_agg(case when l.inline then 'c.' else 'p.' end || l.name, ', ' order by l.ordinal) from comporta_opt2_cold.column_layout l),
                  'cold_' || leaf_name,
                  case when far is null then '' else format('join comporta_opt2_cold.packed p on p.chunk = c.chunk and p.place = c.place and p.leaf = %L %s', leaf_name, format(bounds, 'p')) end,
                  format(bounds, 'c'));
end
$$;

-- A few cold rows in full: an array is unpacked for each of them.
create or replace function comporta.cold_few_rows(leaf_name text, where_text text) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return format('select chunk, place, %s from comporta_opt2_cold.%I c where %s',
                  (select string_agg(comporta.cold_expression(l.name) || ' as ' || l.name, ', ' order by l.ordinal) from comporta_opt2_cold.column_layout l),
                  'cold_' || leaf_name, where_text);
end
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Packing a leaf while it is in use
-- ---------------------------------------------------------------------------------------------------------------

-- Leaves that are cold by the settings, noted once; their names and bounds are what a rollback restores.
create or replace function comporta.cold_plan() returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    layout record;
begin
    select * into layout from comporta_opt2_cold.layout;
    insert into comporta_opt2_cold.leaf (name, schema_name, bound, check_text, high)
    select c.relname, n.nspname, x.bound, pg_get_partition_constraintdef(c.oid), x.high
      from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_namespace n on n.oid = c.relnamespace
      cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bound,
                                 substring(pg_get_expr(c.relpartbound, c.oid) from $q$TO \('([0-9-]+)'\)$q$)::date as high) x
     where i.inhparent = layout.parent and c.relkind = 'r' and x.high <= layout.cold_until
    on conflict do nothing;
end
$$;

-- Rows of the leaf as the chunks will hold them; the text of a bulk batch and of a catch-up differ only in their FROM.
create or replace function comporta.cold_write_chunks(leaf_name text, numbered text) returns bigint
    language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres' set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
    layout record;
    box text := 'null::public.geometry';
    written bigint;
begin
    select * into layout from comporta_opt2_cold.layout;
    select coalesce(max(format('public.st_setsrid(public.st_extent(%s)::public.geometry, max(public.st_srid(%1$s)))', l.name)), box) into box
      from comporta_opt2_cold.column_layout l
     where l.ordinal = (select min(ordinal) from comporta_opt2_cold.column_layout where base_type in ('geometry', 'public.geometry'));
    -- Two statements: the locator is filled from what the first one read, kept in a temporary table.
    create temporary table if not exists comporta_cold_batch (x integer) on commit drop;
    drop table comporta_cold_batch;
    execute format('create temporary table comporta_cold_batch on commit drop as %s', numbered);
    execute format('insert into comporta_opt2_cold.chunk (chunk, leaf, row_count, first_date, last_date, bbox, checksum%s)
                    select chunk, %L, count(*), min(%s), max(%s), %s, sum(%s)%s from pg_temp.comporta_cold_batch b group by chunk',
                   case when layout.columnar then '' else ', ' || comporta.cold_columns('', 'packed') end, leaf_name, layout.part_name, layout.part_name, box,
                   comporta.cold_row_hash('b.'),
                   case when layout.columnar then '' else
                       (select string_agg(format(', array_agg(%s order by place)', l.name), '' order by l.ordinal) from comporta_opt2_cold.column_layout l where l.packed) end);
    if layout.columnar then
        execute format('insert into comporta_opt2_cold.columnar_row (chunk, place, %1$s) select chunk, place, %1$s from pg_temp.comporta_cold_batch order by chunk, place',
                       comporta.cold_columns('', 'packed'));
    end if;
    execute format('insert into comporta_opt2_cold.%I (chunk, place, %2$s) select chunk, place, %2$s from pg_temp.comporta_cold_batch order by chunk, place',
                   'cold_' || leaf_name, comporta.cold_columns('', 'inline'));
    get diagnostics written = row_count;
    drop table pg_temp.comporta_cold_batch;
    return written;
end
$$;

-- State-based: whatever happened to a logged key, the chunks get what the leaf holds now. Returns how many keys it took.
create or replace function comporta.cold_replay(leaf_name text, at_most integer) returns integer
    language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres' set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
    layout record;
    leaf record;
    taken integer;
    part text := format('comporta_opt2_cold.%I', 'cold_' || leaf_name);
    next_chunk integer;
begin
    select * into layout from comporta_opt2_cold.layout;
    select * into leaf from comporta_opt2_cold.leaf l where l.name = leaf_name;
    create temporary table if not exists comporta_cold_taken (x integer) on commit drop;
    drop table comporta_cold_taken;
    execute format('create temporary table comporta_cold_taken on commit drop as
                    select null::bigint as seq, key from comporta_opt2_cold.change_log limit 0');
    execute format('with gone as (delete from comporta_opt2_cold.change_log where seq in (select seq from comporta_opt2_cold.change_log where leaf = %L order by seq limit %s) returning key)
                    insert into pg_temp.comporta_cold_taken (key) select distinct key from gone', leaf_name, at_most);
    select count(*) into taken from pg_temp.comporta_cold_taken;
    if taken > 0 then
        execute format('insert into comporta_opt2_cold.tombstone (chunk, place, stale, row_hash)
                        select f.chunk, f.place, true, %s from (%s) f', comporta.cold_row_hash('f.'),
                       comporta.cold_few_rows(leaf_name, format('c.%s = any (array(select key from pg_temp.comporta_cold_taken))', layout.key_name)));
        perform set_config('comporta_opt2.replay', 'on', true);
        execute format('delete from %s c where c.%s = any (array(select key from pg_temp.comporta_cold_taken))', part, layout.key_name);
        perform set_config('comporta_opt2.replay', '', true);
        select coalesce(max(c.chunk), leaf.first_chunk - 1) + 1 into next_chunk from comporta_opt2_cold.chunk c where c.leaf = leaf_name;
        perform comporta.cold_write_chunks(leaf_name, format(
            'select (%s + (row_number() over (order by t.%s) - 1) / %s)::integer as chunk, (1 + (row_number() over (order by t.%2$s) - 1) %% %3$s)::smallint as place, %s
               from %I.%I t where t.%2$s = any (array(select key from pg_temp.comporta_cold_taken))',
            next_chunk, layout.key_name, layout.chunk_rows, comporta.cold_columns('t.'), leaf.schema_name, leaf_name));
    end if;
    drop table pg_temp.comporta_cold_taken;
    return taken;
end
$$;

-- Packs one leaf, in batches that commit. Locks: SHARE ROW EXCLUSIVE on the leaf for some ms (the log trigger), then
-- none but those of ordinary reads. Resumable: state and next row are marks in comporta_opt2_cold.leaf.
create or replace procedure comporta.cold_pack(leaf_name text)
    language plpgsql
as $$
declare
    layout record;
    leaf record;
    place text;
    total bigint;
    sort_column text;
    chunk_space constant integer := 1000000;
    batch integer;
begin
    select * into layout from comporta_opt2_cold.layout;
    select * into leaf from comporta_opt2_cold.leaf l where l.name = leaf_name;
    place := format('%I.%I', leaf.schema_name, leaf_name);
    if leaf.state = 'planned' then
        call comporta.with_lock(array[place], format(
            'create or replace trigger comporta_opt2_log after insert or update or delete on %1$s for each row execute function comporta_opt2_cold.log_change(%2$L);
             create or replace trigger comporta_opt2_log_truncate before truncate on %1$s execute function comporta_opt2_cold.log_change(%2$L);
             alter table %1$s enable always trigger comporta_opt2_log;
             update comporta_opt2_cold.leaf set state = ''logged'' where name = %2$L and state = ''planned''', place, leaf_name), 'share row exclusive');
        leaf.state := 'logged';
    end if;
    if leaf.state = 'logged' then
        select coalesce(min(l.name), layout.key_name) into sort_column from comporta_opt2_cold.column_layout l
         where l.ordinal = (select min(ordinal) from comporta_opt2_cold.column_layout where base_type in ('geometry', 'public.geometry'));
        execute format('drop table if exists comporta_opt2_cold.%I', 'order_' || leaf_name);
        -- Ordering by a geometry is ordering along a Hilbert curve.
        execute format('create table comporta_opt2_cold.%I as select %s as key, row_number() over (order by %s) - 1 as n from %s', 'order_' || leaf_name, layout.key_name, sort_column, place);
        execute format('alter table comporta_opt2_cold.%I add primary key (n)', 'order_' || leaf_name);
        execute format('drop table if exists comporta_opt2_cold.%I', 'cold_' || leaf_name);
        execute format('create table comporta_opt2_cold.%I (like comporta_opt2_cold.cold including defaults, constraint bound check (%s))', 'cold_' || leaf_name, leaf.check_text);
        execute format('alter table comporta_opt2_cold.%I owner to %I', 'cold_' || leaf_name, (select pg_get_userbyid(relowner) from pg_class where oid = layout.parent));
        execute format('create trigger comporta_opt2_still before update or delete on comporta_opt2_cold.%I for each row execute function comporta_opt2_cold.keep_still()', 'cold_' || leaf_name);
        delete from comporta_opt2_cold.chunk c where c.leaf = leaf_name;
        update comporta_opt2_cold.leaf l set state = 'copying', next_row = 0,
               first_chunk = 1 + chunk_space * (select count(*) from comporta_opt2_cold.leaf o where o.name < leaf_name)::integer
         where l.name = leaf_name;
        commit;
        select * into leaf from comporta_opt2_cold.leaf l where l.name = leaf_name;
    end if;
    if leaf.state = 'copying' then
        batch := greatest(1, 4000 / layout.chunk_rows) * layout.chunk_rows;
        execute format('select count(*) from comporta_opt2_cold.%I', 'order_' || leaf_name) into total;
        while leaf.next_row < total loop
            perform comporta.cold_write_chunks(leaf_name, format(
                'select (%s + o.n / %s)::integer as chunk, (row_number() over (partition by o.n / %2$s order by o.n))::smallint as place, %s
                   from comporta_opt2_cold.%I o join %s t on t.%s = o.key where o.n >= %s and o.n < %s',
                leaf.first_chunk, layout.chunk_rows, comporta.cold_columns('t.'), 'order_' || leaf_name, place, layout.key_name, leaf.next_row, leaf.next_row + batch));
            leaf.next_row := leaf.next_row + batch;
            update comporta_opt2_cold.leaf l set next_row = leaf.next_row where l.name = leaf_name;
            commit;
        end loop;
        update comporta_opt2_cold.leaf l set state = 'copied' where l.name = leaf_name;
        commit;
        leaf.state := 'copied';
    end if;
    if leaf.state = 'copied' then
        call comporta.cold_index(leaf_name);
        update comporta_opt2_cold.leaf l set state = 'packed' where l.name = leaf_name;
        execute format('drop table if exists comporta_opt2_cold.%I', 'order_' || leaf_name);
        commit;
    end if;
end
$$;

-- Indexes, foreign keys and statistics of a leaf's part of the locator, so that attaching it scans nothing.
create or replace procedure comporta.cold_index(leaf_name text)
    language plpgsql
as $$
declare
    layout record;
    part text := format('comporta_opt2_cold.%I', 'cold_' || leaf_name);
    found record;
begin
    select * into layout from comporta_opt2_cold.layout;
    if not exists (select from pg_index where indrelid = part::regclass) then
        execute format('alter table %s add primary key (%s, %s)', part, layout.key_name, layout.part_name);
        for found in select * from comporta.cold_wanted_indexes(layout.parent) loop
            execute format(found.definition, part);
        end loop;
        commit;
    end if;
    call comporta.cold_copy_foreign_keys(layout.parent, part::regclass);
    execute format('analyze %s', part);
    analyze comporta_opt2_cold.chunk;
    commit;
end
$$;

-- Foreign keys as the parent has them: added NOT VALID under short locks (SHARE ROW EXCLUSIVE here and on the table
-- referenced), validated afterwards under locks that let writers pass.
create or replace procedure comporta.cold_copy_foreign_keys(parent regclass, target regclass)
    language plpgsql
as $$
declare
    found record;
begin
    for found in
        select k.conname, k.confrelid::regclass::text as referenced, pg_get_constraintdef(k.oid) as definition, obj_description(k.oid, 'pg_constraint') as comment
          from pg_constraint k where k.conrelid = parent and k.contype = 'f' and k.confrelid <> parent
           and not exists (select from pg_constraint e where e.conrelid = target and e.conname = k.conname)
    loop
        call comporta.with_lock(array[target::text, found.referenced], format('alter table %s add constraint %I %s not valid', target, found.conname, found.definition), 'share row exclusive');
    end loop;
    for found in select k.conname from pg_constraint k where k.conrelid = target and k.contype = 'f' and not k.convalidated loop
        execute format('alter table %s validate constraint %I', target, found.conname);
        commit;
    end loop;
end
$$;

-- The last step for a leaf: replay what is left, detach the leaf, put an empty one (for thawed rows and late inserts) and
-- the cold rows in its place. Locks: ACCESS EXCLUSIVE on leaf, hot table, default leaf and tables referenced, 10..40 ms.
create or replace procedure comporta.cold_cut_over(leaf_name text)
    language plpgsql
as $$
declare
    layout record;
    leaf record;
    place text;
    spare text := format('comporta_opt2.%I', leaf_name);
    part text := format('comporta_opt2_cold.%I', 'cold_' || leaf_name);
    foreign_keys text;
    referenced text[];
    pending bigint;
    body text;
begin
    select * into layout from comporta_opt2_cold.layout;
    select * into leaf from comporta_opt2_cold.leaf l where l.name = leaf_name;
    place := format('%I.%I', leaf.schema_name, leaf_name);
    if leaf.state <> 'packed' then
        return;
    end if;
    if to_regclass(spare) is null then
        perform comporta.cold_copy_leaf(place::regclass, 'comporta_opt2', true);
        execute format('alter table %s add constraint comporta_opt2_bound check (%s)', spare, leaf.check_text);
        commit;
    end if;
    call comporta.cold_copy_foreign_keys(layout.parent, spare::regclass);
    loop
        exit when comporta.cold_replay(leaf_name, 2000) < 50;
        commit;
    end loop;
    commit;
    -- Snapshots older than the copy would miss its rows once the leaf is gone: let them end, within reason.
    call comporta.cold_outwait(15000);
    select coalesce(string_agg(format('alter table %s drop constraint %I;', '%1$s', k.conname), ' '), ''), coalesce(array_agg(distinct k.confrelid::regclass::text), '{}')
      into foreign_keys, referenced from pg_constraint k where k.conrelid = place::regclass and k.contype = 'f';
    body := format('select comporta.cold_replay_all(%L);', leaf_name)
         || format('drop trigger comporta_opt2_log on %1$s; drop trigger comporta_opt2_log_truncate on %1$s;', place)
         || format('alter table %s detach partition %s;', layout.parent, place)
         || format(foreign_keys, place)
         || format('alter table %s set schema comporta_opt2_cold;', place)
         || format('alter table %s set schema %I;', spare, leaf.schema_name)
         || comporta.cold_take_over(place::regclass, place::regclass, place, place)
         || format('alter table %s attach partition %s %s;', layout.parent, place, leaf.bound)
         || format('alter table %s drop constraint comporta_opt2_bound;', place)
         || format('drop trigger comporta_opt2_still on %s;', part)
         || format('alter table comporta_opt2_cold.cold attach partition %s %s;', part, leaf.bound)
         || format('alter table %s drop constraint bound;', part)
         || format('update comporta_opt2_cold.leaf set state = ''cold'' where name = %L', leaf_name);
    -- What is locked first is held while the rest is waited for, so the budget is small.
    call comporta.with_lock(referenced || comporta.cold_default_leaf(layout.parent) || array[place, layout.parent::text], body, budget_ms => 30);
end
$$;

create or replace function comporta.cold_default_leaf(parent regclass) returns text[]
    language sql stable set search_path = pg_catalog, pg_temp
as $$ select coalesce(array_agg(p.partdefid::regclass::text), '{}') from pg_partitioned_table p where p.partrelid = parent and p.partdefid <> 0 $$;

-- Inside a cut-over, when nobody can write any more. Too much left: give the lock back and let the caller try again.
create or replace function comporta.cold_replay_all(leaf_name text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if (select count(*) from (select from comporta_opt2_cold.change_log c where c.leaf = leaf_name limit 301) x) > 300 then
        raise lock_not_available using message = 'too many changes are waiting';
    end if;
    perform comporta.cold_replay(leaf_name, 1000);
end
$$;

-- Waits until no other session holds a snapshot taken before now, at most PATIENCE_MS.
create or replace procedure comporta.cold_outwait(patience_ms integer)
    language plpgsql
as $$
declare
    horizon xid8;
    started timestamptz := clock_timestamp();
begin
    horizon := pg_snapshot_xmax(pg_current_snapshot());
    commit;
    while clock_timestamp() < started + make_interval(secs => patience_ms / 1000.0)
          and exists (select from pg_stat_activity a where a.pid <> pg_backend_pid() and a.datname = current_database() and a.backend_type = 'client backend'
                       and age(a.backend_xmin) > age(horizon::text::bigint::text::xid)) loop
        commit;
        perform pg_sleep(0.02);
    end loop;
    commit;
end
$$;

-- Proves that the cold store holds what the detached leaf held, then drops the leaf: this is where space is won.
create or replace procedure comporta.cold_settle(leaf_name text)
    language plpgsql
as $$
declare
    layout record;
    leaf record;
    emptied text := format('comporta_opt2_cold.%I', leaf_name);
    was record;
    problem text;
begin
    select * into layout from comporta_opt2_cold.layout;
    select * into leaf from comporta_opt2_cold.leaf l where l.name = leaf_name;
    if leaf.state = 'cold' then
        execute format('select * from comporta.cold_digest(%L)', emptied) into was;
        select * from comporta.cold_check_leaf(leaf_name, was.rows, was.checksum) into problem;
        if problem is not null then
            raise exception 'leaf % was not packed faithfully: %', leaf_name, problem
                using errcode = 'data_corrupted', hint = 'The emptied leaf is kept in comporta_opt2_cold. Run the rollback of OPT2.';
        end if;
        update comporta_opt2_cold.leaf l set state = 'verified', row_count = was.rows, verified_at = clock_timestamp() where l.name = leaf_name;
        commit;
    end if;
    if to_regclass(emptied) is not null and not layout.keep_row_store then
        call comporta.with_lock(array[emptied], format('drop table %s', emptied));
    end if;
end
$$;

create or replace function comporta.cold_digest(relation text, out rows bigint, out checksum numeric)
    language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres' set extra_float_digits = 1 set bytea_output = 'hex'
as $$
begin
    execute format('select count(*), coalesce(sum(%s), 0) from %s t', comporta.cold_row_hash('t.'), relation) into rows, checksum;
end
$$;

-- Null when live rows and tombstones of a leaf add up to what its chunks promise (and, if given, to what it held before).
create or replace function comporta.cold_check_leaf(leaf_name text, rows_before bigint default null, checksum_before numeric default null) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres' set extra_float_digits = 1 set bytea_output = 'hex'
as $$
declare
    found record;
begin
    execute format($q$
        with live as (select f.chunk, count(*) as n, sum(%s) as hash from (%s) f group by f.chunk),
             gone as (select t.chunk, count(*) as n, sum(t.row_hash) as hash, count(*) filter (where t.stale) as stale_n, coalesce(sum(t.row_hash) filter (where t.stale), 0) as stale_hash
                        from comporta_opt2_cold.tombstone t group by t.chunk)
        select count(*) filter (where c.row_count <> coalesce(l.n, 0) + coalesce(g.n, 0) or c.checksum <> coalesce(l.hash, 0) + coalesce(g.hash, 0)) as bad,
               min(c.chunk) filter (where c.row_count <> coalesce(l.n, 0) + coalesce(g.n, 0) or c.checksum <> coalesce(l.hash, 0) + coalesce(g.hash, 0)) as first_bad,
               coalesce(sum(c.row_count - coalesce(g.stale_n, 0)), 0) as rows, coalesce(sum(c.checksum - coalesce(g.stale_hash, 0)), 0) as checksum
          from comporta_opt2_cold.chunk c left join live l using (chunk) left join gone g using (chunk) where c.leaf = %L
    $q$, comporta.cold_row_hash('f.'), comporta.cold_full_rows(leaf_name), leaf_name) into found;
    return case when found.bad > 0 then format('%s chunks do not match their checksum, the first is %s', found.bad, found.first_bad)
                when rows_before is not null and found.rows <> rows_before then format('expected %s rows, found %s', rows_before, found.rows)
                when checksum_before is not null and found.checksum <> checksum_before then 'the checksum of its rows differs' end;
end
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- The name: a view that reads both layouts and writes to the hot one
-- ---------------------------------------------------------------------------------------------------------------

-- Who may read the table may read the locator through the view (which runs as the caller, under the same policies). The
-- schema comporta_opt2_cold stays closed to them: nothing in it can be named by anyone but the owner.
create or replace function comporta.cold_grant_readers(parent regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    entry record;
    routine regprocedure;
begin
    perform comporta.cold_copy_acl(parent, 'comporta_opt2_cold.cold'::regclass);
    for entry in
        select distinct case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as name
          from (select x.* from pg_class c, aclexplode(c.relacl) x where c.oid = parent and x.grantee <> c.relowner
                union all select x.* from pg_attribute t, aclexplode(t.attacl) x where t.attrelid = parent) a
    loop
        execute format('revoke insert, update, delete, truncate, references, trigger on comporta_opt2_cold.cold from %s', entry.name);
        execute format('grant select (chunk, place) on comporta_opt2_cold.cold to %s', entry.name);
        execute format('grant usage on schema comporta_opt2 to %s', entry.name);
        for routine in select p.oid::regprocedure from pg_proc p where p.pronamespace = 'comporta_opt2_cold'::regnamespace and p.proname like 'cold\_%' loop
            execute format('grant execute on function %s to %s', routine, entry.name);
        end loop;
    end loop;
end
$$;

-- Writes through the view and the way out of the cold, made before the parent moves to comporta_opt2, so that the swap is short.
create or replace function comporta.cold_make_writers(parent regclass) returns void
    language plpgsql set search_path = pg_catalog, pg_temp set check_function_bodies = off
as $$
declare
    layout record;
    owner_name text := (select quote_ident(pg_get_userbyid(relowner)) from pg_class where oid = parent);
    key_type text;
    identity_name text;
    hot text;
    found record;
begin
    select * into layout from comporta_opt2_cold.layout;
    hot := format('comporta_opt2.%I', layout.relation_name);
    select l.base_type into key_type from comporta_opt2_cold.column_layout l where l.name = layout.key_name;
    select l.name into identity_name from comporta_opt2_cold.column_layout l where l.identity <> '';

    execute format($q$
        create or replace function comporta_opt2_cold.thaw_row(wanted %1$s) returns boolean
            language plpgsql security definer
            set search_path = pg_catalog, pg_temp set session_replication_role = 'replica'
            set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres' set extra_float_digits = 1 set bytea_output = 'hex'
        as $f$
        declare
            c comporta_opt2_cold.cold;
        begin
            delete from comporta_opt2_cold.cold x where x.%2$s = wanted returning x.* into c;
            if not found then
                return false;
            end if;
            insert into %3$s as x (%4$s) overriding system value select %5$s from (select c.*) f;
            insert into comporta_opt2_cold.tombstone (chunk, place, row_hash) select c.chunk, c.place, %6$s from (select %7$s from (select c.*) f) y;
            return true;
        end
        $f$
    $q$, key_type, layout.key_name, hot, comporta.cold_columns('', 'stored'),
        (select string_agg(comporta.cold_expression(l.name), ', ' order by l.ordinal) from comporta_opt2_cold.column_layout l where not l.generated),
        comporta.cold_row_hash('y.'),
        (select string_agg(comporta.cold_expression(l.name) || ' as ' || l.name, ', ' order by l.ordinal) from comporta_opt2_cold.column_layout l));
    execute format($q$
        create or replace function comporta_opt2.thaw(wanted %1$s) returns boolean language plpgsql security definer set search_path = pg_catalog, pg_temp
        as $f$
        begin
            -- Looked up first: the setting that silences triggers costs the session its cached plans.
            return exists (select from comporta_opt2_cold.cold x where x.%2$s = wanted) and comporta_opt2_cold.thaw_row(wanted);
        end
        $f$
    $q$, key_type, layout.key_name);
    execute 'comment on function comporta_opt2.thaw is ''Moves a cold row back to the hot table as it is; true when it was cold.''';
    execute format('revoke all on function comporta_opt2_cold.thaw_row(%s), comporta_opt2.thaw(%1$s) from public', key_type);

    -- A foreign key that cascades into cold rows: thaw them and do the same to the hot table, triggers and all.
    execute format($q$
        create or replace function comporta_opt2_cold.guard() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp
        as $f$
        begin
            perform comporta_opt2.thaw(old.%1$s);
            if tg_op = 'DELETE' then
                delete from %2$s x where x.%1$s = old.%1$s;
            else
                update %2$s x set %3$s where x.%1$s = old.%1$s;
            end if;
            return null;
        end
        $f$
    $q$, layout.key_name, hot,
        coalesce((select string_agg(format('%1$I = new.%1$I', a.attname), ', ') from pg_attribute a
                   where a.attrelid = parent and a.attnum in (select unnest(k.conkey) from pg_constraint k where k.conrelid = parent and k.contype = 'f')),
                 format('%1$s = new.%1$s', layout.key_name)));
    execute 'revoke all on function comporta_opt2_cold.guard() from public';
    execute 'create or replace trigger guard before update or delete on comporta_opt2_cold.cold for each row execute function comporta_opt2_cold.guard()';

    -- As the caller, so that grants on columns and policies of the table decide, as they did before.
    execute format($q$
        create or replace function comporta_opt2.write_through() returns trigger language plpgsql
        as $f$
        declare
            before_row %1$s;
            after_row %1$s;
            written bigint;
            columns text[] := '{}';
            statement text;
            readable boolean := pg_catalog.has_table_privilege(%2$L::pg_catalog.regclass, 'select');
        begin
            if tg_op = 'INSERT' then
                after_row := new;
                if new.%8$s is not null then
                    -- A cold row of the same key comes to the table, where uniqueness is decided.
                    perform comporta_opt2.thaw(after_row.%8$s);
                end if;
                if %3$s and readable and pg_catalog.has_table_privilege(%2$L::pg_catalog.regclass, 'insert')
                   and not pg_catalog.row_security_active(%2$L::pg_catalog.regclass) then
                    insert into %4$s (%5$s) values (%6$s) returning %7$s into after_row;
                    return after_row;
                end if;
                -- The careful path: grants on some columns only, given identity values, rows that the inserter may not see.
                select pg_catalog.format('insert into %4$s as x (%%s) values (%%s)', pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', '), pg_catalog.string_agg(pg_catalog.format('($1).%%I', a.attname), ', '))
                  into statement
                  from pg_catalog.pg_attribute a
                 where a.attrelid = %2$L::pg_catalog.regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                   and pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'insert')
                   and not (a.attidentity <> '' and %3$s);
                if readable then
                    begin
                        execute statement || ' returning %11$s' into before_row using after_row;
                        return before_row;
                    exception when insufficient_privilege then
                        null;  -- allowed to write what it may not read; the second try tells
                    end;
                end if;
                execute statement using after_row;
                return after_row;
            end if;
            before_row := old;
            perform comporta_opt2.thaw(before_row.%8$s);
            if tg_op = 'DELETE' then
                delete from %4$s x where x.%8$s = before_row.%8$s and x.%9$s = before_row.%9$s;
                get diagnostics written = row_count;
                if written > 0 then
                    return old;
                end if;
            else
                after_row := new;
                if after_row.%8$s is not null and after_row.%8$s <> before_row.%8$s then
                    perform comporta_opt2.thaw(after_row.%8$s);
                end if;
                %10$s
                if pg_catalog.cardinality(columns) = 0 then
                    -- Triggers see an update that changes nothing, too: write any column that the caller may write.
                    select array[a.attname::text] into columns from pg_catalog.pg_attribute a
                     where a.attrelid = %2$L::pg_catalog.regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attidentity <> 'a'
                       and pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'update') order by a.attnum limit 1;
                end if;
                -- Another session's change of the same columns since this row was read is never overwritten.
                execute (select pg_catalog.format('update %4$s x set %%s where x.%8$s = ($1).%8$s and x.%9$s = ($1).%9$s and not pg_catalog.record_image_ne(row(%%s), row(%%s))%%s',
                            pg_catalog.string_agg(pg_catalog.format('%%I = ($2).%%1$I', c), ', '), pg_catalog.string_agg(pg_catalog.format('x.%%I', c), ', '),
                            pg_catalog.string_agg(pg_catalog.format('($1).%%I', c), ', '), case when readable then ' returning %11$s' else '' end)
                         from unnest(columns) c)
                   into after_row using before_row, after_row;
                get diagnostics written = row_count;
                if written > 0 then
                    if readable then
                        return after_row;
                    end if;
                    return new;
                end if;
            end if;
            if exists (select from %4$s x where x.%8$s = before_row.%8$s) then
                raise exception 'could not serialize access to %% %%: it was changed by another session meanwhile', %12$L, before_row.%8$s
                    using errcode = 'serialization_failure', hint = 'Nothing was overwritten. Run the statement again.';
            end if;
            return null;
        end
        $f$
    $q$, hot, hot, case when identity_name is null then 'true' else format('new.%s is null', identity_name) end, hot,
        (select string_agg(l.name, ', ' order by l.ordinal) from comporta_opt2_cold.column_layout l where not l.generated and l.identity = ''),
        (select string_agg('new.' || l.name, ', ' order by l.ordinal) from comporta_opt2_cold.column_layout l where not l.generated and l.identity = ''),
        comporta.cold_columns(), layout.key_name, layout.part_name,
        (select string_agg(format('if pg_catalog.record_image_ne(row(after_row.%1$s), row(before_row.%1$s)) then columns := columns || %2$L::text; end if;', l.name,
                                  (select a.attname from pg_attribute a where a.attrelid = parent and quote_ident(a.attname) = l.name)), ' ' order by l.ordinal)
           from comporta_opt2_cold.column_layout l where not l.generated),
        comporta.cold_columns('x.'), layout.logical_name);

    for found in select p.oid::regprocedure as name from pg_proc p where p.pronamespace = 'comporta_opt2'::regnamespace and p.proname = 'write_through' loop
        execute format('alter function %s owner to %s', found.name, owner_name);
    end loop;
    execute format('alter function comporta_opt2_cold.guard() owner to %s', owner_name);
    execute format('grant execute on function comporta_opt2.thaw(%s) to %s', key_type, owner_name);
    for found in
        select distinct case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as name
          from (select x.* from pg_class c, aclexplode(c.relacl) x where c.oid = parent
                union all select x.* from pg_attribute t, aclexplode(t.attacl) x where t.attrelid = parent) a
         where a.privilege_type in ('INSERT', 'UPDATE', 'DELETE')
    loop
        execute format('grant execute on function comporta_opt2.thaw(%s) to %s', key_type, found.name);
    end loop;
end
$$;

-- What a caller may see of the arrays, for aggregates: the policies for SELECT compiled into one condition over COLUMNS.
create or replace function comporta.cold_policy_condition(parent regclass) returns text
    language sql stable set search_path = pg_catalog, pg_temp
as $$
    with rules as (
        select p.polpermissive, format('(%s and (%s))',
                   (select string_agg(case when r = 0 then 'true' else format('(select pg_catalog.pg_has_role(current_user, %L, ''usage''))', pg_get_userbyid(r)) end, ' or ') from unnest(p.polroles) r),
                   coalesce(pg_get_expr(p.polqual, p.polrelid), 'true')) as condition,
               format('(not (%s) or (%s))',
                   (select string_agg(case when r = 0 then 'true' else format('(select pg_catalog.pg_has_role(current_user, %L, ''usage''))', pg_get_userbyid(r)) end, ' or ') from unnest(p.polroles) r),
                   coalesce(pg_get_expr(p.polqual, p.polrelid), 'true')) as demand
          from pg_policy p where p.polrelid = parent and p.polcmd in ('r', '*')
    )
    select format('(not (select pg_catalog.row_security_active(%L::pg_catalog.regclass::pg_catalog.oid)) or ((%s) and %s))', parent,
                  coalesce(string_agg(condition, ' or ') filter (where polpermissive), 'false'),
                  coalesce(string_agg(demand, ' and ') filter (where not polpermissive), 'true'))
      from rules
$$;

-- cold_rows: the locator with its chunk numbers, as the caller. cold_arrays: WANTED columns read from the arrays alone;
-- from the locator instead when a policy needs a column that is not packed or runs a query of its own.
create or replace function comporta.cold_make_readers(parent regclass, wanted text[]) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    layout record;
    owner_name text := (select quote_ident(pg_get_userbyid(relowner)) from pg_class where oid = parent);
    needed text[];
    plain boolean;
begin
    select * into layout from comporta_opt2_cold.layout;
    select array_agg(distinct x order by x) into needed from (
        select unnest(wanted) as x
        union select quote_ident(a.attname) from pg_policy p join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
          and d.refclassid = 'pg_class'::regclass and d.refobjid = parent join pg_attribute a on a.attrelid = parent and a.attnum = d.refobjsubid
         where p.polrelid = parent and d.refobjsubid > 0) u;
    plain := not layout.columnar
        and not exists (select from comporta_opt2_cold.column_layout l where l.name = any (needed) and not l.packed)
        and not exists (select from pg_policy p where p.polrelid = parent and pg_get_expr(p.polqual, p.polrelid) ~* '\mselect\M');
    execute format('create or replace view comporta_opt2.cold_rows with (security_invoker = true) as select chunk, place, %s from comporta_opt2_cold.cold',
                   (select string_agg(comporta.cold_expression(l.name) || ' as ' || l.name, ', ' order by l.ordinal) from comporta_opt2_cold.column_layout l));
    if plain then
        execute format('create or replace view comporta_opt2.cold_arrays with (security_barrier = true) as
                        select %1$I.first_date, %1$I.last_date, %2$s
                          from (select k.first_date, k.last_date, k.chunk, u.*
                                  from comporta_opt2_cold.chunk k cross join lateral unnest(%3$s) with ordinality as u (%4$s, place)
                                 where k.leaf in (select l.name from comporta_opt2_cold.leaf l where l.state in (''cold'', ''verified'', ''loading'', ''loaded''))) as %1$I
                         where not exists (select from comporta_opt2_cold.tombstone t where t.chunk = %1$I.chunk and t.place = %1$I.place) and %5$s',
                       layout.relation_name, (select string_agg(format('%I.%s', layout.relation_name, x), ', ') from unnest(wanted) x),
                       (select string_agg('k.' || x, ', ') from unnest(needed) x), array_to_string(needed, ', '), comporta.cold_policy_condition(parent));
    else
        execute format('create or replace view comporta_opt2.cold_arrays with (security_invoker = true) as select %s as first_date, %1$s as last_date, %s from comporta_opt2_cold.cold',
                       layout.part_name, (select string_agg(comporta.cold_expression(x) || ' as ' || x, ', ') from unnest(wanted) x));
    end if;
    execute format('alter view comporta_opt2.cold_rows owner to %s', owner_name);
    execute format('alter view comporta_opt2.cold_arrays owner to %s', owner_name);
    perform comporta.cold_copy_acl(parent, 'comporta_opt2.cold_rows'::regclass);
    perform comporta.cold_copy_acl(parent, 'comporta_opt2.cold_arrays'::regclass);
    execute $q$
        create or replace function comporta_opt2.chunks_in(box public.geometry, from_date date, to_date date) returns integer[]
            language sql stable security definer set search_path = pg_catalog, pg_temp
        as $f$
            select coalesce(array_agg(k.chunk), '{}') from comporta_opt2_cold.chunk k
             where (box is null or k.bbox operator(public.&&) box) and (from_date is null or k.last_date >= from_date) and (to_date is null or k.first_date < to_date)
        $f$
    $q$;
    execute 'comment on function comporta_opt2.chunks_in is ''Numbers of the chunks that can hold rows of a box and a time window.''';
    execute format('alter function comporta_opt2.chunks_in(public.geometry, date, date) owner to %s', owner_name);
    execute 'revoke all on function comporta_opt2.chunks_in(public.geometry, date, date) from public';
end
$$;

-- Runs MOVE, which puts another relation under the name of WAS; views and functions bound to WAS follow the name.
-- Inside a transaction that holds ACCESS EXCLUSIVE on WAS and on those views.
create or replace function comporta.cold_exchange(was regclass, move text) returns void
    language plpgsql set search_path = ''
as $$
declare
    dependants jsonb := comporta.dependants(was);
begin
    execute move;
    perform comporta.rebind(dependants);
end
$$;

-- Body of the first cut-over: the parent goes to comporta_opt2, the view takes its name.
create or replace function comporta.cold_swap_in() returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    layout record;
    place text;
    columns text;
begin
    select * into layout from comporta_opt2_cold.layout;
    place := layout.logical_name;
    select string_agg(l.name, ', ' order by l.ordinal) into columns from comporta_opt2_cold.column_layout l;
    perform comporta.cold_exchange(layout.parent,
        format('alter table %s set schema comporta_opt2; ', place)
     || format('create view %s with (security_invoker = true) as select %s from comporta_opt2.%I union all select %s from comporta_opt2_cold.cold; ', place, columns, layout.relation_name,
               (select string_agg(comporta.cold_expression(l.name) || case when l.inline then '' else ' as ' || l.name end, ', ' order by l.ordinal) from comporta_opt2_cold.column_layout l))
     || format('select comporta.cold_finish_view(%L);', place));
end
$$;

create or replace function comporta.cold_finish_view(place text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    layout record;
    found record;
begin
    select * into layout from comporta_opt2_cold.layout;
    execute format('alter view %s owner to %I', place, (select pg_get_userbyid(relowner) from pg_class where oid = layout.parent));
    perform comporta.cold_copy_acl(layout.parent, place::regclass);
    perform comporta.cold_copy_comments(layout.parent, place::regclass);
    for found in select a.attname, pg_get_expr(d.adbin, d.adrelid) as value from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
                  where d.adrelid = layout.parent and a.attgenerated = '' loop
        execute format('alter view %s alter column %I set default %s', place, found.attname, found.value);
    end loop;
    execute format('create trigger comporta_write instead of insert or update or delete on %s for each row execute function comporta_opt2.write_through()', place);
    insert into comporta.storage (name, stored_in, by_change) values (layout.logical_name, layout.parent, 'OPT2')
    on conflict (name) do update set stored_in = excluded.stored_in, by_change = excluded.by_change;
end
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- The way back
-- ---------------------------------------------------------------------------------------------------------------

create or replace function comporta.cold_replay_back(leaf_name text, at_most integer) returns integer
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    layout record;
    leaf record;
    taken integer;
    keys text;
    rebuilt text := format('comporta_opt2.%I', leaf_name);
begin
    select * into layout from comporta_opt2_cold.layout;
    select * into leaf from comporta_opt2_cold.leaf l where l.name = leaf_name;
    execute format('with gone as (delete from comporta_opt2_cold.change_log where seq in (select seq from comporta_opt2_cold.change_log where leaf = %L order by seq limit %s) returning key)
                    select string_agg(distinct quote_literal(key), '', '') from gone', leaf_name, at_most) into keys;
    if keys is null then
        return 0;
    end if;
    taken := array_length(string_to_array(keys, ', '), 1);
    execute format('delete from %s x where x.%s in (%s)', rebuilt, layout.key_name, keys);
    execute format('insert into %s (%s) overriding system value select %2$s from %I.%I x where x.%s in (%s)', rebuilt, comporta.cold_columns('', 'stored'), leaf.schema_name, leaf_name, layout.key_name, keys);
    execute format('insert into %s (%s) overriding system value select %2$s from (%s) f', rebuilt, comporta.cold_columns('', 'stored'),
                   comporta.cold_few_rows(leaf_name, format('c.%s in (%s)', layout.key_name, keys)));
    return taken;
end
$$;

create or replace function comporta.cold_replay_back_all(leaf_name text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if (select count(*) from (select from comporta_opt2_cold.change_log c where c.leaf = leaf_name limit 301) x) > 300 then
        raise lock_not_available using message = 'too many changes are waiting';
    end if;
    perform comporta.cold_replay_back(leaf_name, 1000);
end
$$;

-- Builds the leaf again from its chunks and what was thawed or written since, beside the one in use, then exchanges them.
-- Locks as cold_cut_over. Nothing is sent to subscribers: the rebuilt leaf is filled while it is nobody's partition.
create or replace procedure comporta.cold_restore(leaf_name text)
    language plpgsql
as $$
declare
    layout record;
    leaf record;
    place text;
    rebuilt text := format('comporta_opt2.%I', leaf_name);
    part text := format('comporta_opt2_cold.%I', 'cold_' || leaf_name);
    problem text;
    last_chunk integer;
    step integer;
    foreign_keys text;
    referenced text[];
begin
    select * into layout from comporta_opt2_cold.layout;
    select * into leaf from comporta_opt2_cold.leaf l where l.name = leaf_name;
    place := format('%I.%I', leaf.schema_name, leaf_name);
    if leaf.state in ('planned', 'logged', 'copying', 'copied', 'packed') then
        if exists (select from pg_trigger t where t.tgrelid = to_regclass(place) and t.tgname like 'comporta_opt2%') then
            call comporta.with_lock(array[place], format('drop trigger if exists comporta_opt2_log on %1$s; drop trigger if exists comporta_opt2_log_truncate on %1$s', place));
        end if;
        execute format('drop table if exists comporta_opt2_cold.%I', 'order_' || leaf_name);
        if to_regclass(rebuilt) is not null then
            call comporta.cold_drop_table(rebuilt);
        end if;
        if to_regclass(part) is not null then
            call comporta.cold_drop_table(part);
        end if;
        delete from comporta_opt2_cold.leaf l where l.name = leaf_name;
        commit;
        return;
    end if;
    if leaf.state in ('cold', 'verified') then
        select * into problem from comporta.cold_check_leaf(leaf_name);
        if problem is not null then
            raise exception 'leaf % cannot be restored from its chunks: %', leaf_name, problem
                using errcode = 'data_corrupted', hint = 'Nothing was changed. If comporta_opt2_cold still holds the emptied leaf, attach that one; else restore from a backup.';
        end if;
        if to_regclass(format('comporta_opt2_cold.%I', leaf_name)) is not null then
            call comporta.cold_drop_table(format('comporta_opt2_cold.%I', leaf_name));
        end if;
        if to_regclass(rebuilt) is not null then
            call comporta.cold_drop_table(rebuilt);
        end if;
        call comporta.with_lock(array[place], format(
            'create or replace trigger comporta_opt2_log after insert or update or delete on %1$s for each row execute function comporta_opt2_cold.log_change(%2$L);
             create or replace trigger comporta_opt2_log_truncate before truncate on %1$s execute function comporta_opt2_cold.log_change(%2$L);
             alter table %1$s enable always trigger comporta_opt2_log;
             select comporta.cold_copy_leaf(%1$L::regclass, ''comporta_opt2'', false);
             alter table %3$s add constraint comporta_opt2_bound check (%4$s);
             update comporta_opt2_cold.leaf set state = ''loading'', next_row = 0 where name = %2$L', place, leaf_name, rebuilt, leaf.check_text), 'share row exclusive');
        select * into leaf from comporta_opt2_cold.leaf l where l.name = leaf_name;
    end if;
    if leaf.state = 'loading' then
        step := greatest(1, 4000 / layout.chunk_rows);
        select max(c.chunk) into last_chunk from comporta_opt2_cold.chunk c where c.leaf = leaf_name;
        while leaf.first_chunk + leaf.next_row <= last_chunk loop
            execute format('insert into %s (%s) overriding system value select %2$s from (%s) f order by chunk, place', rebuilt, comporta.cold_columns('', 'stored'),
                comporta.cold_full_rows(leaf_name, (leaf.first_chunk + leaf.next_row)::integer, (leaf.first_chunk + leaf.next_row)::integer + step - 1));
            leaf.next_row := leaf.next_row + step;
            update comporta_opt2_cold.leaf l set next_row = leaf.next_row where l.name = leaf_name;
            commit;
        end loop;
        perform comporta.cold_copy_indexes(place::regclass, rebuilt::regclass);
        -- Everything that was thawed or written here since packing goes through the replay.
        execute format('insert into comporta_opt2_cold.change_log (leaf, key) select %L, %s from %s', leaf_name, layout.key_name, place);
        update comporta_opt2_cold.leaf l set state = 'loaded' where l.name = leaf_name;
        commit;
        leaf.state := 'loaded';
    end if;
    if leaf.state = 'loaded' then
        call comporta.cold_copy_foreign_keys(layout.parent, rebuilt::regclass);
        loop
            exit when comporta.cold_replay_back(leaf_name, 2000) < 50;
            commit;
        end loop;
        commit;
        execute format('analyze %s', rebuilt);
        call comporta.cold_outwait(15000);
        select coalesce(string_agg(format('alter table %s drop constraint %I;', '%1$s', k.conname), ' '), ''), coalesce(array_agg(distinct k.confrelid::regclass::text), '{}')
          into foreign_keys, referenced from pg_constraint k where k.conrelid = place::regclass and k.contype = 'f';
        call comporta.with_lock(referenced || comporta.cold_default_leaf(layout.parent) || array[place, part, 'comporta_opt2_cold.cold', layout.parent::text],
            format('select comporta.cold_replay_back_all(%L);', leaf_name)
         || format('drop trigger comporta_opt2_log on %1$s; drop trigger comporta_opt2_log_truncate on %1$s;', place)
         || format('alter table %s detach partition %s;', layout.parent, place)
         || format(foreign_keys, place)
         || format('alter table %s set schema comporta_opt2_cold;', place)
         || format('alter table %s set schema %I;', rebuilt, leaf.schema_name)
         || comporta.cold_take_over(place::regclass, rebuilt::regclass, place, place)
         || format('alter table %s attach partition %s %s;', layout.parent, place, leaf.bound)
         || format('alter table %s drop constraint comporta_opt2_bound;', place)
         || format('alter table comporta_opt2_cold.cold detach partition %s;', part)
         || format('update comporta_opt2_cold.leaf set state = ''restored'' where name = %L', leaf_name), budget_ms => 30);
        leaf.state := 'restored';
    end if;
    if leaf.state = 'restored' then
        if to_regclass(format('comporta_opt2_cold.%I', leaf_name)) is not null then
            call comporta.cold_drop_table(format('comporta_opt2_cold.%I', leaf_name));
        end if;
        if to_regclass(part) is not null then
            call comporta.cold_drop_table(part);
        end if;
        delete from comporta_opt2_cold.leaf l where l.name = leaf_name;
        commit;
    end if;
end
$$;

-- A table with foreign keys is dropped in two steps: dropping the key locks the table it points to.
create or replace procedure comporta.cold_drop_table(relation text)
    language plpgsql
as $$
declare
    found record;
begin
    for found in select k.conname, k.confrelid::regclass::text as referenced from pg_constraint k where k.conrelid = relation::regclass and k.contype = 'f' loop
        call comporta.with_lock(array[relation, found.referenced], format('alter table %s drop constraint %I', relation, found.conname));
    end loop;
    call comporta.with_lock(array[relation], format('drop table %s', relation));
end
$$;

-- Body of the last cut-over: the parent takes its name again.
create or replace function comporta.cold_swap_out() returns void
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    layout record;
begin
    select * into layout from comporta_opt2_cold.layout;
    if exists (select from pg_inherits where inhparent = 'comporta_opt2_cold.cold'::regclass) then
        raise exception 'cold rows are still attached' using errcode = 'object_not_in_prerequisite_state';
    end if;
    perform comporta.cold_exchange(layout.logical_name::regclass,
        format('alter view %s set schema comporta_opt2_cold; alter table comporta_opt2.%I set schema %I;', layout.logical_name, layout.relation_name,
               (select n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = layout.logical_name::regclass)));
    delete from comporta.storage s where s.name = layout.logical_name and s.by_change = 'OPT2';
end
$$;
