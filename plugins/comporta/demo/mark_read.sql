select rows, seed, finished_at is not null from comporta.demo
