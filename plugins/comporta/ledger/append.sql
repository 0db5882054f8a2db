select comporta.append(%s, %s, %s::jsonb)
