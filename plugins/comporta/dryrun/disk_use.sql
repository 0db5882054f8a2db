-- Purpose:     bytes of the database now.
-- Requires:    CONNECT on the database.
-- Locks:       none.
-- Transaction: no matter.

select pg_catalog.pg_database_size(pg_catalog.current_database())::bigint
