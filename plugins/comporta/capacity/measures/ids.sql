-- Purpose:     the lowest and the highest id: what the load draws from.
-- Requires:    SELECT on the table, which has a column id with an index.
-- Locks:       ACCESS SHARE on the table.
-- Transaction: no matter.

select coalesce(min(id), 0), coalesce(max(id), 0) from {table}
