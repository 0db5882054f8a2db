select id, layer, name, geom, properties, data_referencia from catalogue.geometrias where id = %(id)s
