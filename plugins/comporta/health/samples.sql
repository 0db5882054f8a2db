select id, target, breaker, at, verdict, value, bound, runs, slow, why, detail, probe, holder
  from comporta.breaker_sample
 where release = %(release)s
   and (%(target)s::text is null or target = %(target)s::text)
   and at >= coalesce(%(since)s::timestamptz, '-infinity') and at <= coalesce(%(until)s::timestamptz, 'infinity')
 order by id
