-- A second row with an id that exists, five years before the first, into the table that holds the rows: no trigger must fire
-- (session_replication_role = replica), and one of a view that stands there instead would be passed over without a word.
insert into {table} (id, layer, name, geom, properties, data_referencia)
select g.id, g.layer, g.name, g.geom, g.properties || jsonb_build_object('rev', %(rev)s::text),
       (g.data_referencia - interval '5 years')::date
from catalogue.geometrias g
where g.data_referencia >= date '2020-01-01'
  and case when cardinality(%(ids)s::bigint[]) > 0 then g.id = any (%(ids)s::bigint[]) else mod(g.id, %(every)s) = %(offset)s end
order by g.id
limit 1
returning id
