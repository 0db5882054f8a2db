insert into catalogue.geometrias (layer, name, geom, properties, data_referencia)
values (%(layer)s, %(name)s, %(geom)s, jsonb_build_object('fonte', 'traffic', 'rev', %(rev)s::text), %(data_referencia)s::date)
returning id
