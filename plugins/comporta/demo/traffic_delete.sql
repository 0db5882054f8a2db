delete from catalogue.geometrias where id = %(id)s
