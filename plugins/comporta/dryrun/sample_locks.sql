-- Purpose:     watch pg_locks for half a second from inside the server and tell every change as an INFO message.
-- Requires:    settings comporta.trace_pause_ms and comporta.trace_seconds of the session; PostgreSQL 14 (waitstart).
-- Locks:       ACCESS SHARE on catalogues, for the length of one look.
-- Transaction: no: it commits after each look, so it never holds a snapshot that CREATE INDEX CONCURRENTLY waits for.
--
-- It ends after half a second so that it never looks like a long statement to a script that waits for older ones.
-- A look costs one pass over the lock table and no round trip. Names and sessions are resolved within the look that
-- saw them first, because a moment later the object may be renamed or gone.

do $$
declare
    here constant oid := (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database());
    -- pg_sleep rounds up to whole milliseconds: asking for a little less gives the pause that was meant.
    pause constant double precision := pg_catalog.current_setting('comporta.trace_pause_ms')::double precision / 1000 - 0.0001;
    started constant double precision := pg_catalog.date_part('epoch', pg_catalog.clock_timestamp());
    finish constant double precision := started + pg_catalog.current_setting('comporta.trace_seconds')::double precision;
    looked double precision;
    before double precision;
    seen text;
    last text := '?';
    micros integer[] := '{}';
begin
    loop
        looked := pg_catalog.date_part('epoch', pg_catalog.clock_timestamp());
        select pg_catalog.string_agg(pg_catalog.concat_ws(' ', l.pid, l.virtualtransaction, coalesce(l.relation, 0), l.mode,
                                 l.granted, coalesce(pg_catalog.date_part('epoch', l.waitstart), 0)),
                             E'\n' order by l.pid, l.relation, l.mode, l.granted)
          into seen
          from pg_catalog.pg_locks l
         where (l.locktype = 'relation' and l.database = here
                and (not l.granted or l.mode in ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock',
                                                 'ShareLock', 'ShareUpdateExclusiveLock')))
            or (l.locktype = 'transactionid' and not l.granted);
        if seen is null and last is not null then
            raise info '%', pg_catalog.jsonb_build_object('at', looked, 'before', before, 'locks', '');
            last := seen;
        elsif seen is distinct from last then
            raise info '%', (
                with held as materialized (
                    select distinct pg_catalog.split_part(line, ' ', 1)::integer as pid,
                                    pg_catalog.split_part(line, ' ', 3)::oid as relation,
                                    pg_catalog.split_part(line, ' ', 5) = 'f'
                                        and pg_catalog.strpos(coalesce(last, ''), line) = 0 as began_to_wait
                      from pg_catalog.string_to_table(seen, E'\n') line
                ), waiting as materialized (
                    -- Who is in front costs a pass over the whole lock table for each who asks: once, and not for crowds.
                    select h.pid, pg_catalog.pg_blocking_pids(h.pid) as behind
                      from held h where h.began_to_wait limit 20
                )
                select pg_catalog.jsonb_build_object(
                    'at', looked, 'before', before, 'locks', coalesce(seen, ''),
                    'names', (select pg_catalog.jsonb_object_agg(c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname))
                                from (select distinct relation from held) h
                                join pg_catalog.pg_class c on c.oid = h.relation
                                join pg_catalog.pg_namespace n on n.oid = c.relnamespace),
                    'behind', (select pg_catalog.jsonb_object_agg(w.pid, w.behind) from waiting w),
                    'sessions', (select pg_catalog.jsonb_object_agg(a.pid, pg_catalog.concat_ws('|', a.backend_type, a.application_name))
                                   from (select pid from held where pid is not null
                                          union select pg_catalog.unnest(behind) from waiting) h
                                  cross join lateral pg_catalog.pg_stat_get_activity(h.pid) a))
            );
            last := seen;
        end if;
        before := looked;
        micros := micros || ((looked - started) * 1000000)::integer;
        commit;
        exit when looked >= finish;
        perform pg_catalog.pg_sleep(pause);
    end loop;
    raise info '%', pg_catalog.jsonb_build_object('base', started, 'micros', micros);
end
$$;
