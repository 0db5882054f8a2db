select comporta.breaker_admit(%s, %s, %s, %s, %s, %s)
