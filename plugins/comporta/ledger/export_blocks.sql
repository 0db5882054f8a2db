select n, first_id, last_id, leaves, prev_hash, hash
  from comporta.block
 where last_id <= %(upto)s
 order by n
