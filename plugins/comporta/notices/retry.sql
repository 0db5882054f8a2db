update comporta.mail
   set state = 'waiting', tries = 0, next_due = comporta.now(), settled_at = null, address = %(address)s
 where id = %(id)s
