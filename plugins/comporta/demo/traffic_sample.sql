-- Rows to work on: those of the drawn ids that exist and that this role may see, and that no late writer made.
-- Never deletable: a row with an inspection.
select g.id,
       g.name,
       public.st_x(public.st_centroid(public.st_envelope(g.geom))),
       public.st_y(public.st_centroid(public.st_envelope(g.geom))),
       exists (select from catalogue.inspections i where i.geometria_id = g.id)
from catalogue.geometrias g
where g.id = any (%(ids)s)
  and coalesce(g.properties ->> 'rev', '') not like 'late-%%'
order by g.id
