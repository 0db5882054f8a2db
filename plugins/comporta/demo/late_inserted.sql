select id from catalogue.geometrias where properties ->> 'rev' = any (%(revs)s)
