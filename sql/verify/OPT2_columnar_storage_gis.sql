-- Purpose:     fails unless OPT2 is wholly applied and the cold store holds what it promises.
-- Requires:    sql/support; may read every table concerned (owner or superuser).
-- Locks:       ACCESS SHARE.
-- Transaction: yes; changes nothing.

do $$
declare
    problem text;
    leaf record;
    layout record;
    seen bigint;
    registered bigint;
begin
    if not comporta.done('OPT2', 'applied') or to_regclass('comporta_opt2_cold.layout') is null then
        raise exception 'OPT2 is not applied: %', case when comporta.done('OPT2', 'view') then 'it stopped half-way' else 'the name catalogue.geometrias is no view of it' end
            using hint = 'Run sql/apply/OPT2_columnar_storage_gis.sql; it continues where it stopped.';
    end if;
    select * into layout from comporta_opt2_cold.layout;
    if (select c.relkind from pg_class c where c.oid = 'catalogue.geometrias'::regclass) <> 'v'
       or not exists (select from pg_class c where c.oid = 'catalogue.geometrias'::regclass and 'security_invoker=true' = any (c.reloptions)) then
        raise exception 'catalogue.geometrias is not a view that runs as its caller';
    end if;
    if comporta.stored_in('catalogue.geometrias') <> layout.parent or (select relkind from pg_class where oid = layout.parent) is distinct from 'p' then
        raise exception 'comporta.storage does not name the hot table of catalogue.geometrias';
    end if;
    if (select t.tgtype & 64 from pg_trigger t where t.tgrelid = 'catalogue.geometrias'::regclass and t.tgname = 'comporta_write' and t.tgenabled = 'O') is null
       or (select bit_or(t.tgtype) & (4 | 8 | 16) from pg_trigger t where t.tgrelid = 'catalogue.geometrias'::regclass and t.tgtype & 64 > 0) <> 28 then
        raise exception 'catalogue.geometrias lacks its INSTEAD OF trigger for INSERT, UPDATE and DELETE';
    end if;

    -- The cold part: every planned leaf packed, verified, out of the row store; an empty leaf and a part of the locator in its place.
    if not exists (select from comporta_opt2_cold.leaf) then
        raise exception 'no leaf is cold: every leaf ends after %', layout.cold_until using hint = 'Change comporta.cold_settings().';
    end if;
    for leaf in select * from comporta_opt2_cold.leaf l order by l.high loop
        if leaf.state <> 'verified' then
            raise exception 'leaf % is %, expected verified', leaf.name, leaf.state;
        end if;
        if not layout.keep_row_store and to_regclass(format('comporta_opt2_cold.%I', leaf.name)) is not null then
            raise exception 'leaf % still has its row store', leaf.name;
        end if;
        if not exists (select from pg_inherits i where i.inhrelid = to_regclass(format('%I.%I', leaf.schema_name, leaf.name)) and i.inhparent = layout.parent)
           or not exists (select from pg_inherits i where i.inhrelid = to_regclass(format('comporta_opt2_cold.%I', 'cold_' || leaf.name)) and i.inhparent = 'comporta_opt2_cold.cold'::regclass) then
            raise exception 'leaf % is not attached on both sides', leaf.name;
        end if;
        problem := comporta.cold_check_leaf(leaf.name);
        if problem is not null then
            raise exception 'leaf %: %', leaf.name, problem;
        end if;
    end loop;
    if exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
                where i.inhparent = layout.parent and substring(pg_get_expr(c.relpartbound, c.oid) from $q$TO \('([0-9-]+)'\)$q$)::date <= layout.cold_until
                  and not exists (select from comporta_opt2_cold.leaf l where l.name = c.relname)) then
        raise exception 'a leaf before % was never packed', layout.cold_until;
    end if;

    -- The view reads each registered row once.
    if to_regclass('catalogue.geometrias_ids') is not null then
        execute 'select (select count(*) from catalogue.geometrias), (select count(*) from catalogue.geometrias_ids),
                        (select format(''id %s'', coalesce(v.id, r.id)) from catalogue.geometrias v full join catalogue.geometrias_ids r on r.id = v.id and r.data_referencia = v.data_referencia
                          where v.id is null or r.id is null limit 1)' into seen, registered, problem;
        if problem is not null or seen <> registered then
            raise exception 'the view reads % rows, the registry knows %; they differ at %', seen, registered, coalesce(problem, 'a row read twice');
        end if;
    end if;

    -- Policies of the locator are those of the table; nobody else enters the cold store.
    if exists (select p.polname, p.polcmd, p.polpermissive, p.polroles, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid) from pg_policy p where p.polrelid = layout.parent
               except
               select p.polname, p.polcmd, p.polpermissive, p.polroles, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid) from pg_policy p where p.polrelid = 'comporta_opt2_cold.cold'::regclass)
       or (select relrowsecurity from pg_class where oid = layout.parent) <> (select relrowsecurity from pg_class where oid = 'comporta_opt2_cold.cold'::regclass) then
        raise exception 'row security of the cold rows differs from that of the table';
    end if;
    if exists (select from pg_namespace n, aclexplode(n.nspacl) a where n.nspname = 'comporta_opt2_cold' and a.grantee <> n.nspowner) then
        raise exception 'schema comporta_opt2_cold is open to others than its owner';
    end if;
    if exists (select from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                where p.pronamespace in ('comporta_opt2'::regnamespace, 'comporta_opt2_cold'::regnamespace) and p.prosecdef and a.grantee = 0) then
        raise exception 'a definer function of OPT2 is open to PUBLIC';
    end if;
end
$$;
