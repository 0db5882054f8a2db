select id, layer, name, geom
from catalogue.geometrias
where geom && public.st_makeenvelope(%(west)s, %(south)s, %(east)s, %(north)s, 4326)
limit 50
