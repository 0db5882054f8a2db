update comporta.mail set tries = %(tries)s, said = %(said)s, next_due = %(next_due)s where id = %(id)s
