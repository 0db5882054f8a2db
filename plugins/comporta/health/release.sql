select comporta.breaker_release(%s, %s, %s, %s)
