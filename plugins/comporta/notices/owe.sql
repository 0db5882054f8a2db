insert into comporta.mail (event, recipient, address, notice, feature, gate, message_id, subject, plain, html, created_at, next_due)
values (%(event)s, %(recipient)s, %(address)s, %(notice)s, %(feature)s, %(gate)s, %(message_id)s, %(subject)s, %(plain)s, %(html)s,
        comporta.now(), comporta.now())
    on conflict on constraint mail_once do nothing
