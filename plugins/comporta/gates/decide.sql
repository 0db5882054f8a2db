select comporta.gate_decide(%s, %s, %s, %s, %s, %s, %s, %s)
