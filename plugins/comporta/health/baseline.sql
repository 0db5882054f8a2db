select comporta.health_baseline(%s, %s, %s)
