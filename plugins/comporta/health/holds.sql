select breaker, held_by, reason, held_at from comporta.breaker_hold where release = %(release)s order by held_at, held_by
