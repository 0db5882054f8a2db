insert into catalogue.geometrias (id, layer, name, geom, properties, data_referencia)
values (%(id)s, %(layer)s, %(name)s, %(geom)s, jsonb_build_object('fonte', 'traffic', 'rev', %(rev)s::text), %(data_referencia)s::date)
returning id
