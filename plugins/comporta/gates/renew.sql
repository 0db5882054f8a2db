select comporta.gate_renew(%s, %s, %s, %s)
