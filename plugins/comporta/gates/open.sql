select comporta.gate_open(%s, %s, %s)
