-- The target that was looked at last: a release has one at a time.
select coalesce((select target from comporta.breaker_sample where release = %(release)s order by id desc limit 1),
                (select payload ->> 'target' from comporta.event
                  where stream = 'health/' || %(release)s and payload ? 'target' order by version desc limit 1))
