select g.*, comporta.gate_places(g) as places
  from comporta.gate g
 where (%(gates)s::bigint[] is null or g.gate = any (%(gates)s::bigint[]))
   and (%(states)s::text[] is null or g.state = any (%(states)s::text[]))
   and (%(name)s::text is null or g.name = %(name)s)
   and (%(asker)s::text is null or starts_with(g.asker, %(asker)s))
 order by g.gate desc
 limit %(limit)s
