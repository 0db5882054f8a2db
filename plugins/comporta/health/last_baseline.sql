select id, payload
  from comporta.event
 where stream = 'health/' || %(release)s and event_type = 'health_baseline_taken' and payload ->> 'target' = %(target)s
 order by version desc
 limit 1
