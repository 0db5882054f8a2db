select id, recipient from comporta.mail
 where state = 'failed' and (%(ids)s::bigint[] is null or id = any (%(ids)s))
 order by id
   for update
