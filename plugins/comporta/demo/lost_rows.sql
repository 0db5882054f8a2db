select id, layer, name, properties ->> 'rev', md5(geom::text), data_referencia::text from catalogue.geometrias where id = any (%(ids)s)
