-- Purpose:     the tables whose rows a change has put elsewhere: name, relation that holds them, change.
-- Requires:    sql/support.
-- Locks:       none that matter.
-- Transaction: no matter.

select s.name, s.stored_in::oid, s.by_change from comporta.storage s
