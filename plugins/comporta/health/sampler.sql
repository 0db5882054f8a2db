select comporta.health_sampler(%s, %s, %s, %s)
