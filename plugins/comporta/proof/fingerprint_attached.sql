-- Purpose:     facts of what hangs on a relation: constraints, indexes, triggers, policies, rules, extended statistics.
-- Requires:    search_path = pg_catalog, so that every other name comes out qualified.
-- Locks:       none.
-- Transaction: yes, read only.
--
-- Tables of an extension are left out elsewhere, but what somebody hung on them is here.
-- The triggers that enforce a foreign key carry an OID in their name: they are named by the function they call.

with relation as (
    select c.oid, c.relname, n.nspname, format('%I.%I', n.nspname, c.relname) as name
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
      and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'comporta')
),
constrained as (
    select k.*, format('%I on %s', k.conname, r.name) as name
    from pg_constraint k
    join relation r on r.oid = k.conrelid
)
select 'constraint' as kind, k.name, p.property, p.value
from constrained k
cross join lateral (values
    ('definition', regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '')),
    ('validated', case when k.convalidated then 'yes' else 'no' end),
    ('deferrable', case when k.condeferred then 'initially deferred' when k.condeferrable then 'initially immediate' end),
    ('key of the other table', case when k.contype = 'f' then k.conindid::regclass::text end),
    ('inherited', case when k.coninhcount > 0 then case when k.conislocal then 'merged' else 'yes' end end)
) as p (property, value)
where p.value is not null
union all
select 'constraint', k.name, format('enforced by %s on %s', t.tgfoid::regproc, t.tgrelid::regclass),
       case t.tgenabled when 'D' then 'disabled' when 'R' then 'replica only' else 'always' end
from constrained k
join pg_trigger t on t.tgconstraint = k.oid and t.tgisinternal
where t.tgenabled <> 'O'
union all
select 'index', format('%I.%I', n.nspname, c.relname), p.property, p.value
from pg_index i
join relation r on r.oid = i.indrelid
join pg_class c on c.oid = i.indexrelid
join pg_namespace n on n.oid = c.relnamespace
left join pg_tablespace t on t.oid = c.reltablespace
left join pg_inherits h on h.inhrelid = c.oid
cross join lateral (values
    ('definition', pg_get_indexdef(i.indexrelid)),
    ('valid', case when i.indisvalid then 'yes' else 'no' end),
    ('ready', case when not i.indisready then 'no' end),
    ('live', case when not i.indislive then 'no' end),
    ('primary key', case when i.indisprimary then 'yes' end),
    ('checked', case when not i.indimmediate then 'at the end of the statement or later' end),
    ('clustered on', case when i.indisclustered then 'yes' end),
    ('replica identity', case when i.indisreplident then 'yes' end),
    ('tablespace', t.spcname::text),
    ('partition of', h.inhparent::regclass::text)
) as p (property, value)
where p.value is not null
union all
select 'index', format('%I.%I', n.nspname, c.relname), format('statistics target of column %s', a.attnum), a.attstattarget::text
from pg_index i
join relation r on r.oid = i.indrelid
join pg_class c on c.oid = i.indexrelid
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attstattarget >= 0
union all
select 'trigger', format('%I on %s', t.tgname, r.name), p.property, p.value
from pg_trigger t
join relation r on r.oid = t.tgrelid
left join pg_trigger parent on parent.oid = t.tgparentid
cross join lateral (values
    ('definition', pg_get_triggerdef(t.oid)),
    ('fires', case t.tgenabled when 'O' then 'yes' when 'D' then 'disabled' when 'R' then 'on a replica only' else 'always' end),
    ('copied from', case when parent.oid is not null then format('%I on %s', parent.tgname, parent.tgrelid::regclass) end)
) as p (property, value)
where not t.tgisinternal and p.value is not null
union all
select 'policy', format('%I on %s', y.polname, r.name), p.property, p.value
from pg_policy y
join relation r on r.oid = y.polrelid
cross join lateral (values
    ('for', case y.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end),
    ('permissive', case when y.polpermissive then 'yes' else 'no' end),
    ('roles', (select string_agg(coalesce(o.rolname::text, 'public'), ', ' order by coalesce(o.rolname::text, 'public'))
               from unnest(y.polroles) as role (oid) left join pg_roles o using (oid))),
    ('using', pg_get_expr(y.polqual, y.polrelid)),
    ('with check', pg_get_expr(y.polwithcheck, y.polrelid))
) as p (property, value)
where p.value is not null
union all
select 'rule', format('%I on %s', w.rulename, r.name), p.property, p.value
from pg_rewrite w
join relation r on r.oid = w.ev_class
cross join lateral (values
    ('definition', case when w.rulename <> '_RETURN' then pg_get_ruledef(w.oid) end),
    ('fires', case w.ev_enabled when 'D' then 'disabled' when 'R' then 'on a replica only' when 'A' then 'always'
                                else case when w.rulename <> '_RETURN' then 'yes' end end)
) as p (property, value)
where p.value is not null
union all
select 'statistics object', format('%I.%I', n.nspname, s.stxname), p.property, p.value
from pg_statistic_ext s
join pg_namespace n on n.oid = s.stxnamespace
join relation r on r.oid = s.stxrelid
cross join lateral (values
    ('definition', pg_get_statisticsobjdef(s.oid)),
    ('owner', pg_get_userbyid(s.stxowner)::text),
    ('statistics target', case when s.stxstattarget >= 0 then s.stxstattarget::text end)
) as p (property, value)
where p.value is not null;
