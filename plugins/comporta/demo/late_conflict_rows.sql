select count(*) from catalogue.geometrias where id = %(id)s
