select count(*) from dag_run
