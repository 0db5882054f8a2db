select geometria_id, action, count(*)
from catalogue.edits
where id > %(before)s and geometria_id = any (%(ids)s)
group by geometria_id, action
