-- Purpose:     bytes of the database, and where its files are when the role may know.
-- Requires:    search_path = pg_catalog; pg_read_all_settings for the directory.
-- Locks:       none.
-- Transaction: yes, read only.

select pg_database_size(current_database()) as bytes,
       case when pg_has_role('pg_read_all_settings', 'usage') then current_setting('data_directory') end as directory;
