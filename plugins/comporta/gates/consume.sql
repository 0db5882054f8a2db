select comporta.gate_consume(%s, %s, %s)
