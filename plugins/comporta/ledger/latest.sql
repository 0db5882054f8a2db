select id, stream, version, feature, event_type, workflow, phase, payload, actor, "timestamp", idempotency_key
  from comporta.event
 where (%(stream)s::text is null or stream = %(stream)s)
   and (%(event_type)s::text is null or event_type = %(event_type)s)
 order by id desc
 limit %(limit)s
