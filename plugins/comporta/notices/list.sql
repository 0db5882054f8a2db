select id, event, recipient, address, notice, feature, gate, message_id, subject, plain, html, state, tries, said,
       created_at, next_due, settled_at
  from comporta.mail
 where (%(state)s::text is null or state = %(state)s)
 order by id desc
 limit %(limit)s
