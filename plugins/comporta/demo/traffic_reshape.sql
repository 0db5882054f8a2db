update catalogue.geometrias set geom = %(geom)s where id = %(id)s
