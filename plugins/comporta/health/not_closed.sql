select array(select breaker from comporta.breaker where release = %s and target = %s and state <> 'closed' order by breaker)
