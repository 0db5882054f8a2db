select extract(epoch from min(next_due) - comporta.now())::float8 from comporta.mail where state = 'waiting'
