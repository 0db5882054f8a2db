-- What loading sent is nobody's use. Everything that this server counted is forgotten: it is the demo's own.
select public.pg_stat_statements_reset()
