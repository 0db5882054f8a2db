update comporta.mail_cursor set event = %s, moved_at = comporta.now()
