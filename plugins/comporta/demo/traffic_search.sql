select id, name, similarity
from catalogue.rpc_search(%(query)s, public.st_makeenvelope(%(west)s, %(south)s, %(east)s, %(north)s, 4326), %(from_date)s, %(to_date)s, 20)
