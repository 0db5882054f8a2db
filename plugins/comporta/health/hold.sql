select comporta.breaker_hold(%s, %s, %s, %s)
