select hash from comporta.block where n = %s
