-- Purpose:     where the server keeps its files, when the role may know, and who it is: a folder is its own only with that in it.
-- Requires:    pg_read_all_settings for the directory.
-- Locks:       none.
-- Transaction: no matter.

select case when pg_catalog.pg_has_role('pg_read_all_settings', 'usage') then pg_catalog.current_setting('data_directory') end,
       (pg_catalog.pg_control_system()).system_identifier
