select comporta.gate_revoke(%s, %s, %s, %s)
