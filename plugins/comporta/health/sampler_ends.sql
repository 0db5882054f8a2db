select comporta.health_sampler_ends(%s, %s, %s)
