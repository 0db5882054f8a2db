select stream, version, id, feature, workflow, event_type, phase, payload, actor, "timestamp"
  from comporta.current_state
 where starts_with(stream, %s)
 order by id desc
