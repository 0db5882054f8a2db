select count(*), min("timestamp") from comporta.event where id > %s
