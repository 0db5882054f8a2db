-- In a stream, the order of versions is the order of ids.
select id, stream, version, feature, event_type, workflow, phase, payload, actor, "timestamp", idempotency_key
  from comporta.event
 where stream = %(stream)s
   and id > %(after)s
   and (%(event_type)s::text is null or event_type = %(event_type)s)
 order by version
 limit %(limit)s
