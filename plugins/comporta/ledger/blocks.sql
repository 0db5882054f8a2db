select n, first_id, last_id, leaves, prev_hash, hash
  from comporta.block
 where n > %s
 order by n
 limit %s
