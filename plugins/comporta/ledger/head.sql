select n, last_id, hash from comporta.block order by n desc limit 1
