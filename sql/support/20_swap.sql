-- Purpose:     put one table in another's place and back without losing a row, a grant, a trigger or a reader: a log of
--              changed rows, its replay by state, and routines that carry what hangs on a table from one to the other.
-- Requires:    10_core.sql.
-- Locks:       none on user tables by itself.
-- Transaction: yes, but may also run statement by statement.

-- Rows changed while a copy is being made, or since the swap. Only the key is logged: the replay takes the row as it is
-- then, so the order of entries does not matter and an entry may be replayed twice.
create table if not exists comporta.row_log (
    log text not null,
    seq bigint generated always as identity,
    id  bigint not null,
    primary key (log, seq)
);

-- Security definer: pg_temp comes last, or a caller's own temporary types would be found first.
create or replace function comporta.log_row() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op <> 'INSERT' then
        insert into comporta.row_log (log, id) values (tg_argv[0], old.id);
    end if;
    if tg_op = 'INSERT' or (tg_op = 'UPDATE' and new.id <> old.id) then
        insert into comporta.row_log (log, id) values (tg_argv[0], new.id);
    end if;
    return null;
end
$$;
comment on function comporta.log_row() is 'Logs the key of every changed row under the name given as the trigger''s argument.';

create or replace function comporta.refuse_truncate() returns trigger
    language plpgsql set search_path = pg_catalog
as $$
begin
    raise exception 'TRUNCATE of % is refused: it would leave no trace for the rollback of %', tg_relid::regclass, tg_argv[0]
        using errcode = 'feature_not_supported', hint = 'Use DELETE.';
end
$$;

-- Columns that an INSERT may name, quoted, in order; columns present in both tables only, as both have the same shape.
create or replace function comporta.writable_columns(relation regclass) returns text
    language sql stable set search_path = pg_catalog
as $$
    select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
      from pg_attribute a
     where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
$$;

-- One batch: the entries that this statement sees are taken off the log, and each of their rows is made in DESTINATION
-- what it is in SOURCE now. A change that commits later has an entry that is seen later. Returns the entries taken.
create or replace function comporta.replay_batch(log text, source regclass, destination regclass, max_entries integer)
    returns integer
    language plpgsql set search_path = pg_catalog
as $$
declare
    columns text := comporta.writable_columns(destination);
    entries integer;
    ids bigint[];
    one bigint;
begin
    with taken as (
        delete from comporta.row_log l
         where l.log = $1
           and l.seq in (select n.seq from comporta.row_log n where n.log = $1 order by n.seq limit max_entries)
        returning l.id
    )
    select count(*), array_agg(distinct id) into entries, ids from taken;
    if entries = 0 then
        return 0;
    end if;
    execute format('delete from %s where id = any ($1)', destination) using ids;
    begin
        execute format('insert into %s (%s) overriding system value select %s from %s where id = any ($1)',
                       destination, columns, columns, source) using ids;
    exception when integrity_constraint_violation then
        foreach one in array ids loop
            begin
                execute format('insert into %s (%s) overriding system value select %s from %s where id = $1',
                               destination, columns, columns, source) using one;
            exception when integrity_constraint_violation then
                raise exception 'the row with id % of % does not fit into %: %', one, source, destination, sqlerrm
                    using hint = 'Correct that row in the table that is in use and run this script again; nothing was lost.';
            end;
        end loop;
    end;
    return entries;
end
$$;

create or replace procedure comporta.replay(log text, source regclass, destination regclass, leave_entries integer default 20)
    language plpgsql
as $$
declare
    taken integer;
    total bigint := 0;
begin
    loop
        taken := comporta.replay_batch(log, source, destination, 2000);
        total := total + taken;
        commit;
        exit when taken <= leave_entries;
    end loop;
    if total > leave_entries then
        raise notice 'replayed % logged changes from % into %', total, source, destination;
    end if;
end
$$;

-- Grants ---------------------------------------------------------------------------------------------------------------

-- Who may do what, without the names of the grantors, which a copy cannot keep.
create or replace function comporta.grants(relation regclass) returns text[]
    language sql stable set search_path = pg_catalog
as $$
    select array_agg(format('%s %s %s %s', g.attname, g.grantee, g.privilege_type, g.is_grantable) order by 1) from (
        select null as attname, a.grantee, a.privilege_type, bool_or(a.is_grantable) as is_grantable
          from pg_class c, aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) a
         where c.oid = relation group by 2, 3
        union all
        select t.attname, x.grantee, x.privilege_type, bool_or(x.is_grantable)
          from pg_attribute t, aclexplode(t.attacl) x
         where t.attrelid = relation and t.attnum > 0 and not t.attisdropped group by 1, 2, 3
    ) g
$$;

-- Owner, table grants and column grants of DESTINATION become those of SOURCE. What is equal already is not touched.
create or replace function comporta.carry_grants(source regclass, destination regclass) returns void
    language plpgsql set search_path = pg_catalog
as $$
declare
    item record;
begin
    for item in select pg_get_userbyid(s.relowner) as owner from pg_class s, pg_class d
                 where s.oid = source and d.oid = destination and s.relowner <> d.relowner loop
        execute format('alter table %s owner to %I', destination, item.owner);
    end loop;
    if comporta.grants(source) = comporta.grants(destination) then
        return;
    end if;
    for item in select distinct case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
                  from pg_class c, aclexplode(c.relacl) a where c.oid = destination loop
        execute format('revoke all on %s from %s cascade', destination, item.grantee);
    end loop;
    for item in select a.attname, case x.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end as grantee
                  from pg_attribute a, aclexplode(a.attacl) x
                 where a.attrelid = destination and a.attnum > 0 and not a.attisdropped group by 1, 2 loop
        execute format('revoke all (%I) on %s from %s cascade', item.attname, destination, item.grantee);
    end loop;
    for item in select case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee,
                       string_agg(a.privilege_type, ', ') as privileges, a.is_grantable
                  from pg_class c, aclexplode(coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) a
                 where c.oid = source group by 1, 3 loop
        execute format('grant %s on %s to %s%s', item.privileges, destination, item.grantee,
                       case when item.is_grantable then ' with grant option' else '' end);
    end loop;
    for item in select case x.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(x.grantee)) end as grantee,
                       x.privilege_type, x.is_grantable, string_agg(quote_ident(a.attname), ', ') as columns
                  from pg_attribute a, aclexplode(a.attacl) x
                 where a.attrelid = source and a.attnum > 0 and not a.attisdropped group by 1, 2, 3 loop
        execute format('grant %s (%s) on %s to %s%s', item.privilege_type, item.columns, destination, item.grantee,
                       case when item.is_grantable then ' with grant option' else '' end);
    end loop;
end
$$;

-- Nobody reads a part of a table past the policies of the whole.
create or replace function comporta.revoke_all(relation regclass) returns void
    language plpgsql set search_path = pg_catalog
as $$
declare
    item record;
begin
    for item in select distinct case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
                  from pg_class c, aclexplode(c.relacl) a where c.oid = relation and a.grantee <> c.relowner loop
        execute format('revoke all on %s from %s', relation, item.grantee);
    end loop;
end
$$;

-- Row level security ---------------------------------------------------------------------------------------------------

create or replace function comporta.policy_definition(policy oid, relation regclass) returns text
    language sql stable set search_path = pg_catalog
as $$
    select format('create policy %I on %s as %s for %s to %s%s%s', p.polname, relation,
                  case when p.polpermissive then 'permissive' else 'restrictive' end,
                  case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
                  (select string_agg(case r when 0 then 'public' else quote_ident(pg_get_userbyid(r)) end, ', ') from unnest(p.polroles) r),
                  coalesce(' using (' || pg_get_expr(p.polqual, p.polrelid) || ')', ''),
                  coalesce(' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''))
      from pg_policy p where p.oid = policy
$$;

-- Policies, their comments and the flags of DESTINATION become those of SOURCE. What is equal already is not touched.
create or replace function comporta.carry_policies(source regclass, destination regclass) returns void
    language plpgsql set search_path = ''
as $$
declare
    item record;
begin
    for item in select d.polname from pg_catalog.pg_policy d
                 where d.polrelid = destination
                   and not exists (select from pg_catalog.pg_policy s where s.polrelid = source and s.polname = d.polname
                                      and comporta.policy_definition(s.oid, destination) = comporta.policy_definition(d.oid, destination)) loop
        execute format('drop policy %I on %s', item.polname, destination);
    end loop;
    for item in select s.oid, s.polname, obj_description(s.oid, 'pg_policy') as comment from pg_catalog.pg_policy s where s.polrelid = source loop
        if not exists (select from pg_catalog.pg_policy d where d.polrelid = destination and d.polname = item.polname) then
            execute comporta.policy_definition(item.oid, destination);
        end if;
        if item.comment is distinct from (select obj_description(d.oid, 'pg_policy') from pg_catalog.pg_policy d
                                           where d.polrelid = destination and d.polname = item.polname) then
            execute format('comment on policy %I on %s is %L', item.polname, destination, item.comment);
        end if;
    end loop;
    for item in select s.relrowsecurity as on_source, d.relrowsecurity as on_destination,
                       s.relforcerowsecurity as forced_source, d.relforcerowsecurity as forced_destination
                  from pg_catalog.pg_class s, pg_catalog.pg_class d where s.oid = source and d.oid = destination loop
        if item.on_source <> item.on_destination then
            execute format('alter table %s %s row level security', destination, case when item.on_source then 'enable' else 'disable' end);
        end if;
        if item.forced_source <> item.forced_destination then
            execute format('alter table %s %s row level security', destination, case when item.forced_source then 'force' else 'no force' end);
        end if;
    end loop;
end
$$;

-- Triggers -------------------------------------------------------------------------------------------------------------

create or replace function comporta.trigger_definition(trigger_oid oid, relation regclass) returns text
    language sql stable set search_path = ''
as $$
    select pg_catalog.regexp_replace(pg_catalog.pg_get_triggerdef(t.oid),
               ' ON ' || pg_catalog.regexp_replace(pg_catalog.format('%I.%I', n.nspname, c.relname), '([.$])', '\\\1', 'g') || ' ',
               ' ON ' || relation::text || ' ')
      from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where t.oid = trigger_oid
$$;

create or replace function comporta.set_trigger_state(relation regclass, trigger_name name, state "char") returns void
    language plpgsql set search_path = pg_catalog
as $$
begin
    execute format('alter table %s %s trigger %I', relation,
                   case state when 'D' then 'disable' when 'A' then 'enable always' when 'R' then 'enable replica' else 'enable' end,
                   trigger_name);
end
$$;

-- Triggers of DESTINATION become those of SOURCE, with comments and enabled state; triggers whose function is in APART
-- belong to Comporta on either side and stay where they are.
create or replace function comporta.carry_triggers(source regclass, destination regclass, apart regproc[]) returns void
    language plpgsql set search_path = ''
as $$
declare
    item record;
begin
    for item in select d.tgname from pg_catalog.pg_trigger d
                 where d.tgrelid = destination and not d.tgisinternal and d.tgparentid = 0 and d.tgfoid <> all (apart::oid[])
                   and not exists (select from pg_catalog.pg_trigger s where s.tgrelid = source and s.tgname = d.tgname and not s.tgisinternal
                                      and comporta.trigger_definition(s.oid, destination) = comporta.trigger_definition(d.oid, destination)) loop
        execute format('drop trigger %I on %s', item.tgname, destination);
    end loop;
    for item in select s.oid, s.tgname, s.tgenabled, obj_description(s.oid, 'pg_trigger') as comment from pg_catalog.pg_trigger s
                 where s.tgrelid = source and not s.tgisinternal and s.tgparentid = 0 and s.tgfoid <> all (apart::oid[]) order by s.oid loop
        if not exists (select from pg_catalog.pg_trigger d where d.tgrelid = destination and d.tgname = item.tgname) then
            execute comporta.trigger_definition(item.oid, destination);
        end if;
        if item.tgenabled <> (select d.tgenabled from pg_catalog.pg_trigger d where d.tgrelid = destination and d.tgname = item.tgname) then
            perform comporta.set_trigger_state(destination, item.tgname, item.tgenabled);
        end if;
        if item.comment is distinct from (select obj_description(d.oid, 'pg_trigger') from pg_catalog.pg_trigger d
                                           where d.tgrelid = destination and d.tgname = item.tgname) then
            execute format('comment on trigger %I on %s is %L', item.tgname, destination, item.comment);
        end if;
    end loop;
end
$$;

-- Comments on the table, its columns, its constraints and (by equal name) its indexes.
create or replace function comporta.carry_comments(source regclass, destination regclass) returns void
    language plpgsql set search_path = ''
as $$
declare
    item record;
begin
    if obj_description(source, 'pg_class') is distinct from obj_description(destination, 'pg_class') then
        execute format('comment on table %s is %L', destination, obj_description(source, 'pg_class'));
    end if;
    for item in select a.attname, col_description(source, a.attnum) as comment
                  from pg_catalog.pg_attribute a join pg_catalog.pg_attribute d on d.attrelid = destination and d.attname = a.attname
                 where a.attrelid = source and a.attnum > 0 and not a.attisdropped
                   and col_description(source, a.attnum) is distinct from col_description(destination, d.attnum) loop
        execute format('comment on column %s.%I is %L', destination, item.attname, item.comment);
    end loop;
    for item in select s.conname, obj_description(s.oid, 'pg_constraint') as comment
                  from pg_catalog.pg_constraint s join pg_catalog.pg_constraint d on d.conrelid = destination and d.conname = s.conname
                 where s.conrelid = source
                   and obj_description(s.oid, 'pg_constraint') is distinct from obj_description(d.oid, 'pg_constraint') loop
        execute format('comment on constraint %I on %s is %L', item.conname, destination, item.comment);
    end loop;
    for item in select dc.oid::regclass as index, obj_description(sc.oid, 'pg_class') as comment
                  from pg_catalog.pg_index s join pg_catalog.pg_class sc on sc.oid = s.indexrelid
                  join pg_catalog.pg_class dc on dc.relname = sc.relname
                  join pg_catalog.pg_index d on d.indexrelid = dc.oid and d.indrelid = destination
                 where s.indrelid = source
                   and obj_description(sc.oid, 'pg_class') is distinct from obj_description(dc.oid, 'pg_class') loop
        execute format('comment on index %s is %L', item.index, item.comment);
    end loop;
end
$$;

-- What reads the table -------------------------------------------------------------------------------------------------

-- Definitions of the views and functions that are bound to RELATION by its OID, as they read now. Take them before the
-- swap, and give them to comporta.rebind after it: the same text then finds the table that has taken the name.
create or replace function comporta.dependants(relation regclass) returns jsonb
    language sql stable set search_path = ''
as $$
    with functions as (
        select p.oid, p.proowner, p.proacl, bool_or(d.refclassid = 'pg_catalog.pg_type'::regclass) as of_row_type
          from pg_catalog.pg_depend d
          join pg_catalog.pg_proc p on p.oid = d.objid
         where d.classid = 'pg_catalog.pg_proc'::regclass
           and ((d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation)
             or (d.refclassid = 'pg_catalog.pg_type'::regclass
                 and d.refobjid in (select t.oid from pg_catalog.pg_type t where t.typrelid = relation
                                    union all select t.typarray from pg_catalog.pg_type t where t.typrelid = relation)))
         group by p.oid
    ), views as (
        select distinct c.oid, c.reloptions
          from pg_catalog.pg_depend d
          join pg_catalog.pg_rewrite r on r.oid = d.objid and d.classid = 'pg_catalog.pg_rewrite'::regclass
          join pg_catalog.pg_class c on c.oid = r.ev_class and c.relkind = 'v'
         where d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = relation and c.oid <> relation
    )
    select pg_catalog.jsonb_build_object(
        'functions', coalesce((select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                'oid', f.oid::bigint, 'of_row_type', f.of_row_type, 'definition', pg_catalog.pg_get_functiondef(f.oid), 'identity', f.oid::regprocedure::text,
                'owner', pg_catalog.pg_get_userbyid(f.proowner), 'acl', f.proacl::text, 'comment', obj_description(f.oid, 'pg_proc')) order by f.oid)
            from functions f), '[]'),
        'views', coalesce((select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                'oid', v.oid::bigint, 'name', v.oid::regclass::text, 'definition', pg_catalog.pg_get_viewdef(v.oid),
                'options', pg_catalog.array_to_string(v.reloptions, ', ')) order by v.oid)
            from views v), '[]'))
$$;

-- What is bound to RELATION by its OID and cannot follow it to another table, in words.
create or replace function comporta.immovable(relation regclass) returns setof text
    language sql stable set search_path = ''
as $$
    with parts as (
        select 'pg_catalog.pg_class'::regclass as classid, relation::oid as objid
        union all
        select 'pg_catalog.pg_type'::regclass, unnest(array[t.oid, t.typarray]) from pg_catalog.pg_type t where t.typrelid = relation
    ), dependents as (
        select distinct d.classid, d.objid, d.objsubid, d.deptype, d.refclassid
          from pg_catalog.pg_depend d join parts p on p.classid = d.refclassid and p.objid = d.refobjid
    )
    select pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) || ' reads or rewrites it by its OID'
      from dependents d
      join pg_catalog.pg_rewrite r on r.oid = d.objid and d.classid = 'pg_catalog.pg_rewrite'::regclass
      join pg_catalog.pg_class c on c.oid = r.ev_class
     where c.relkind <> 'v' or r.rulename <> '_RETURN'
    union
    select pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) || ' depends on it'
      from dependents d
     where d.deptype = 'n'
       and d.classid not in ('pg_catalog.pg_rewrite'::regclass, 'pg_catalog.pg_constraint'::regclass, 'pg_catalog.pg_proc'::regclass,
                             'pg_catalog.pg_publication_rel'::regclass, 'pg_catalog.pg_trigger'::regclass, 'pg_catalog.pg_statistic_ext'::regclass)
       and not (d.classid = 'pg_catalog.pg_policy'::regclass and d.objid in (select p.oid from pg_catalog.pg_policy p where p.polrelid = relation))
       and not (d.classid = 'pg_catalog.pg_class'::regclass and d.objid in (select i.inhrelid from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
                                                                             where i.inhparent = relation and c.relispartition))
$$;

-- Columns, indexes, checks and extended statistics by which FOUND is not as EXPECTED.
create or replace function comporta.shape_differences(expected regclass, found regclass) returns setof text
    language sql stable set search_path = ''
as $$
    with parts as (
        select a.attrelid as relation, 'column ' || pg_catalog.quote_ident(a.attname) as part,
               pg_catalog.concat_ws(' ', pg_catalog.format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
                   'default ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid), 'collation ' || nullif(a.attcollation, t.typcollation)::regcollation,
                   'identity ' || nullif(a.attidentity::text, ''), 'generated ' || nullif(a.attgenerated::text, '')) as shape
          from pg_catalog.pg_attribute a
          join pg_catalog.pg_type t on t.oid = a.atttypid
          left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         where a.attnum > 0 and not a.attisdropped
        union all
        select x.indrelid, 'index ' || pg_catalog.quote_ident(i.relname), 'present'
          from pg_catalog.pg_index x join pg_catalog.pg_class i on i.oid = x.indexrelid
        union all
        select c.conrelid, 'check constraint ' || pg_catalog.quote_ident(c.conname), pg_catalog.pg_get_constraintdef(c.oid)
          from pg_catalog.pg_constraint c where c.contype = 'c'
        union all
        select s.stxrelid, 'statistics ' || pg_catalog.quote_ident(s.stxname), 'present' from pg_catalog.pg_statistic_ext s
    )
    select pg_catalog.format('%s: expected "%s", found "%s"', part, coalesce(e.shape, 'absent'), coalesce(f.shape, 'absent'))
      from (select * from parts where relation = expected) e
      full join (select * from parts where relation = found) f using (part)
     where e.shape is distinct from f.shape
     order by part
$$;

create or replace function comporta.rebind(dependants jsonb) returns void
    language plpgsql set search_path = ''
as $$
declare
    item record;
    grant_ record;
    made regprocedure;
begin
    -- A function that takes or gives rows of the table cannot be replaced, only made anew beside the former one.
    for item in select p.oid::regprocedure as former, p.oid from pg_catalog.jsonb_to_recordset(dependants -> 'functions') as x (oid bigint, of_row_type boolean)
                  join pg_catalog.pg_proc p on p.oid = x.oid::oid where x.of_row_type loop
        execute pg_catalog.format('alter routine %s rename to %I', item.former, 'comporta_former_' || item.oid);
    end loop;
    for item in select * from pg_catalog.jsonb_to_recordset(dependants -> 'functions')
                    as x (oid bigint, definition text, identity text, owner text, acl text, comment text) loop
        execute item.definition;
        made := item.identity::regprocedure;
        continue when made::oid::bigint = item.oid;
        execute pg_catalog.format('alter routine %s owner to %I', made, item.owner);
        -- Default privileges may have given it to others.
        for grant_ in select distinct case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end as grantee
                        from pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
                       where p.oid = made and a.grantee <> p.proowner and (item.acl is not null or a.grantee <> 0) loop
            execute pg_catalog.format('revoke all on routine %s from %s', made, grant_.grantee);
        end loop;
        if item.acl is not null then
            execute pg_catalog.format('revoke all on routine %s from public', made);
            for grant_ in select case a.grantee when 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end as grantee,
                                 a.is_grantable
                            from pg_catalog.aclexplode(item.acl::aclitem[]) a loop
                execute pg_catalog.format('grant execute on routine %s to %s%s', made, grant_.grantee,
                                          case when grant_.is_grantable then ' with grant option' else '' end);
            end loop;
        end if;
        if item.comment is not null then
            execute pg_catalog.format('comment on routine %s is %L', made, item.comment);
        end if;
    end loop;
    for item in select * from pg_catalog.jsonb_to_recordset(dependants -> 'views') as x (oid bigint, name text, definition text, options text) loop
        execute pg_catalog.format('create or replace view %s %s as %s', item.name,
                                  case when item.options <> '' then 'with (' || item.options || ')' else '' end, item.definition);
    end loop;
    -- The former functions take a row of the table that stepped aside: nothing calls them any more.
    for item in select p.oid::regprocedure as former
                  from pg_catalog.jsonb_to_recordset(dependants -> 'functions') as x (oid bigint, identity text)
                  join pg_catalog.pg_proc p on p.oid = x.oid::oid
                 where x.identity::regprocedure <> p.oid::regprocedure loop
        execute pg_catalog.format('drop routine %s', item.former);
    end loop;
end
$$;

-- Names of the relations that a swap of RELATION must lock: views, referenced and referencing tables first, the busiest last.
create or replace function comporta.swap_locks(relation regclass) returns text[]
    language sql stable set search_path = ''
as $$
    select pg_catalog.array_agg(name order by place, name) from (
        select 1 as place, v.name from pg_catalog.jsonb_to_recordset(comporta.dependants(relation) -> 'views') as v (name text)
        union
        select 2, c.conrelid::regclass::text from pg_catalog.pg_constraint c where c.contype = 'f' and c.confrelid = relation and c.conparentid = 0
        union
        select 1, c.confrelid::regclass::text from pg_catalog.pg_constraint c where c.contype = 'f' and c.conrelid = relation
        union
        select 3, relation::text
    ) locked
$$;

-- Publications and sequence --------------------------------------------------------------------------------------------

-- The publications that list SOURCE list DESTINATION instead, with the same columns and row filter.
create or replace function comporta.carry_publications(source regclass, destination regclass) returns void
    language plpgsql set search_path = ''
as $$
declare
    item record;
begin
    for item in select p.pubname, pg_catalog.pg_get_expr(r.prqual, r.prrelid) as filter,
                       (select pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by a.attnum) from pg_catalog.pg_attribute a
                         where a.attrelid = r.prrelid and a.attnum = any (r.prattrs::int2[])) as columns
                  from pg_catalog.pg_publication_rel r join pg_catalog.pg_publication p on p.oid = r.prpubid where r.prrelid = source loop
        execute pg_catalog.format('alter publication %I drop table %s', item.pubname, source);
        execute pg_catalog.format('alter publication %I add table %s%s%s', item.pubname, destination,
                                  coalesce(' (' || item.columns || ')', ''), coalesce(' where (' || item.filter || ')', ''));
    end loop;
end
$$;

-- The identity sequence of DESTINATION goes on where that of SOURCE stands, with its grants and comment.
create or replace function comporta.carry_sequence(source regclass, destination regclass, column_name text) returns void
    language plpgsql set search_path = pg_catalog
as $$
declare
    from_sequence text := pg_get_serial_sequence(source::text, column_name);
    to_sequence text := pg_get_serial_sequence(destination::text, column_name);
begin
    if from_sequence is not null and to_sequence is not null then
        execute format('select setval(%L, last_value, is_called) from %s', to_sequence, from_sequence);
        perform comporta.carry_grants(from_sequence, to_sequence);
        if obj_description(from_sequence::regclass, 'pg_class') is distinct from obj_description(to_sequence::regclass, 'pg_class') then
            execute format('comment on sequence %s is %L', to_sequence, obj_description(from_sequence::regclass, 'pg_class'));
        end if;
    end if;
end
$$;

-- Foreign keys that point at RELATION, with what it takes to write them again.
create or replace function comporta.inbound_keys(relation regclass) returns jsonb
    language sql stable set search_path = ''
as $$
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'table', c.conrelid::regclass::text, 'name', c.conname,
               'definition', pg_catalog.regexp_replace(pg_catalog.pg_get_constraintdef(c.oid), ' NOT VALID$', ''),
               'references', relation::text, 'validated', c.convalidated,
               'comment', obj_description(c.oid, 'pg_constraint')) order by c.oid), '[]')
      from pg_catalog.pg_constraint c
     where c.contype = 'f' and c.confrelid = relation and c.conparentid = 0
$$;

-- Foreign keys of RELATION itself.
create or replace function comporta.outbound_keys(relation regclass) returns jsonb
    language sql stable set search_path = ''
as $$
    select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'table', relation::text, 'name', c.conname, 'validated', c.convalidated, 'references', c.confrelid::regclass::text,
               'definition', pg_catalog.regexp_replace(pg_catalog.pg_get_constraintdef(c.oid), ' NOT VALID$', ''),
               'comment', obj_description(c.oid, 'pg_constraint')) order by c.oid), '[]')
      from pg_catalog.pg_constraint c
     where c.contype = 'f' and c.conrelid = relation and c.conparentid = 0
$$;

-- Drop the keys and add them again, pointing at TARGET_TABLE and not yet validated: no scan under the lock.
create or replace function comporta.repoint_keys(keys jsonb, target_table text) returns void
    language plpgsql set search_path = ''
as $$
declare
    item record;
begin
    for item in select * from pg_catalog.jsonb_to_recordset(keys)
                    as x ("table" text, name text, definition text, "references" text, validated boolean, comment text) loop
        execute pg_catalog.format('alter table %s drop constraint %I, add constraint %I %s not valid', item."table", item.name, item.name,
            pg_catalog.replace(item.definition, 'REFERENCES ' || item."references" || '(', 'REFERENCES ' || target_table || '('));
        if item.comment is not null then
            execute pg_catalog.format('comment on constraint %I on %s is %L', item.name, item."table", item.comment);
        end if;
    end loop;
end
$$;

-- Validate what was validated before; takes SHARE UPDATE EXCLUSIVE on the referencing table, readers and writers go on.
create or replace procedure comporta.validate_keys(keys jsonb)
    language plpgsql
as $$
declare
    item record;
begin
    for item in select * from pg_catalog.jsonb_to_recordset(keys) as x ("table" text, name text, validated boolean) loop
        continue when not item.validated
            or (select c.convalidated from pg_catalog.pg_constraint c
                 where c.conrelid = item."table"::regclass and c.conname = item.name);
        call comporta.with_lock(array[item."table"],
            pg_catalog.format('alter table %s validate constraint %I', item."table", item.name), 'share update exclusive', 2000);
    end loop;
end
$$;
