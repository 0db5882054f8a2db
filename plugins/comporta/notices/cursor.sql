-- One reader at a time: what it reads becomes mail in the same transaction.
select event from comporta.mail_cursor for update
