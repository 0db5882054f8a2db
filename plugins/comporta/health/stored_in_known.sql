-- Purpose:     whether the support schema is on this database, which knows where the rows of a table are.
-- Requires:    nothing.
-- Locks:       none.
-- Transaction: no matter.

select pg_catalog.to_regprocedure('comporta.stored_in(text)') is not null
