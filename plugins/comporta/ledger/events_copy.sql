-- One column, a record: its wire format is the encoding of the event.
copy (
    select row(id, stream, version, feature, event_type, workflow, phase, payload, actor, "timestamp", idempotency_key)
      from comporta.event
     where id > {after} and id <= {upto}
     order by id
) to stdout (format binary)
