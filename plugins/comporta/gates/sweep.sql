select comporta.gate_sweep()
