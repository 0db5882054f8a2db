select coalesce(max(id), 0) from comporta.event where "timestamp" <= %s
