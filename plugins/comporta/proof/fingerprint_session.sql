-- Purpose:     make the server write names, dates and numbers in one way, whatever the session or role had set.
-- Requires:    an open transaction; the settings end with it.
-- Locks:       none.
-- Transaction: yes.
--
-- pg_catalog comes first so that every name elsewhere is qualified; pg_temp last so that no temporary table shadows a catalogue.
-- Without jit = off, compiling the queries takes longer than running them.

select set_config('search_path', 'pg_catalog, pg_temp', true), set_config('datestyle', 'ISO, YMD', true),
       set_config('intervalstyle', 'postgres', true), set_config('timezone', 'UTC', true), set_config('extra_float_digits', '1', true),
       set_config('bytea_output', 'hex', true), set_config('quote_all_identifiers', 'off', true), set_config('jit', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true);
