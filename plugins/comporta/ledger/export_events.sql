-- The payload as text: its spelling is what was hashed.
select id, stream, version, feature, event_type, workflow, phase, payload::text, actor, "timestamp", idempotency_key
  from comporta.event
 where id <= %(upto)s
   and (%(stream)s::text is null or stream = %(stream)s)
 order by id
