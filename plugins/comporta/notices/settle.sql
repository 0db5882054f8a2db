update comporta.mail
   set state = %(state)s, tries = %(tries)s, said = %(said)s, settled_at = comporta.now()
 where id = %(id)s
