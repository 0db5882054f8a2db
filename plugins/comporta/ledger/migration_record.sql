insert into comporta.migration (name, sha256) values (%s, %s)
