-- Task instances of runs that may still matter: what runs, and what became of it. On Airflow's metadata database.
select t.dag_id, t.run_id, t.task_id, t.map_index, t.try_number, t.state, t.last_heartbeat_at as heartbeat
  from task_instance t
  join dag_run r on r.dag_id = t.dag_id and r.run_id = t.run_id
 where t.state = 'running' or t.end_date is null or t.end_date > now() - interval '1 hour'
