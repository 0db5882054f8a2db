-- What a stream told before an event, oldest first.
select * from (
    select id, stream, version, feature, event_type, workflow, phase, payload, actor, "timestamp", idempotency_key
      from comporta.event
     where stream = %(stream)s and version < %(version)s
     order by version desc
     limit %(limit)s) as latest
 order by version
