delete from {table} where id = %(id)s and properties ->> 'rev' = %(rev)s
