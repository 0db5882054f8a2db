-- Purpose:     the relation that holds the rows of each table now, and the table's own name: a change may have put a view there.
-- Requires:    comporta.stored_in of the support schema.
-- Locks:       none.
-- Transaction: no matter. Parameter: tables (text[]).

select comporta.stored_in(named.name)::text, named.name
  from unnest(%(tables)s::text[]) as named (name)
 where pg_catalog.to_regclass(named.name) is not null
