-- Rows that no traffic writes, as it leaves out their ids: which are cold, and which nothing keeps from being deleted.
select g.id,
       g.layer,
       g.name,
       g.data_referencia < date '2021-01-01',
       not exists (select from catalogue.inspections i where i.geometria_id = g.id)
from catalogue.geometrias g
where mod(g.id, %(every)s) = 0
  and g.properties ->> 'fonte' is distinct from 'traffic'
order by g.id
limit 4000
