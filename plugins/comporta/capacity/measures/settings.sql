-- Purpose:     the settings that decide how fast a server is, as it shows them.
-- Requires:    parameter names (text[]).
-- Locks:       none.
-- Transaction: no matter.

select n.name, pg_catalog.current_setting(n.name, true) from unnest(%(names)s::text[]) as n (name)
