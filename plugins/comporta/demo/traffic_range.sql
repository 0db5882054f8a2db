select coalesce(min(id), 0), coalesce(max(id), 0) from catalogue.geometrias
