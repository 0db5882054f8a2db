"""Everything on one machine: private PostgreSQL clusters, the Airflow processes, and the commands that start and stop them."""
