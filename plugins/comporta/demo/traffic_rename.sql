update catalogue.geometrias
set name = %(name)s, properties = properties || jsonb_build_object('rev', %(rev)s::text)
where id = %(id)s
