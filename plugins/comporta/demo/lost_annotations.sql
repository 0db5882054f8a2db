select id, geometria_id, body from catalogue.annotations where id = any (%(ids)s)
