-- Purpose:     make values come out in one form whatever the session had set, and fail rather than skip rows that policies hide.
-- Requires:    an open transaction; the settings end with it.
-- Locks:       none.
-- Transaction: yes.

select set_config('search_path', 'pg_catalog, pg_temp', true), set_config('datestyle', 'ISO, YMD', true),
       set_config('intervalstyle', 'postgres', true), set_config('timezone', 'UTC', true), set_config('extra_float_digits', '1', true),
       set_config('bytea_output', 'hex', true), set_config('lc_monetary', 'C', true), set_config('jit', 'off', true),
       set_config('row_security', 'off', true);
