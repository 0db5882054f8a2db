update comporta.demo set finished_at = clock_timestamp()
