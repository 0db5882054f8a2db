-- The lock is held while the mail is on its way: two senders never take the same one, and a killed one lets go of it.
select id, event, recipient, address, notice, feature, gate, message_id, subject, plain, html, state, tries, said,
       created_at, next_due, settled_at
  from comporta.mail
 where state = 'waiting' and next_due <= comporta.now()
 order by next_due, id
 limit 1
   for update skip locked
