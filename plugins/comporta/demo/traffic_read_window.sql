select id, name, data_referencia
from catalogue.geometrias
where geom && public.st_makeenvelope(%(west)s, %(south)s, %(east)s, %(north)s, 4326)
  and data_referencia >= %(from_date)s and data_referencia < %(to_date)s
limit 50
