update catalogue.geometrias set data_referencia = %(data_referencia)s::date where id = %(id)s
