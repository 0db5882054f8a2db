insert into comporta.demo (rows, seed) values (%(rows)s, %(seed)s)
