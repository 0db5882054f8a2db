select comporta.now()
