-- Purpose:     what stands in the schema comporta, which the fingerprint leaves out: its objects, and the progress of the changes named.
-- Locks:       none.
-- Transaction: yes, read only.
select format('function %%s', p.oid::regprocedure), md5(p.prosrc)
from pg_proc p where p.pronamespace = to_regnamespace('comporta')
union all
select format('%%s %%s', case c.relkind when 'v' then 'view' when 'S' then 'sequence' when 'i' then 'index' else 'table' end, c.oid::regclass), ''
from pg_class c where c.relnamespace = to_regnamespace('comporta')
union all
select format('progress of %%s: %%s', s.change, s.step), '' from comporta.step s where s.change = any (%(changes)s);
