select id, stream, version, feature, event_type, workflow, phase, payload, actor, "timestamp", idempotency_key
  from comporta.event
 where id > %(after)s
   and (%(event_type)s::text is null or event_type = %(event_type)s)
 order by id
 limit %(limit)s
