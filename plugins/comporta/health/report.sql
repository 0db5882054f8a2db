select comporta.health_report(%s, %s, %s, %s, %s)
