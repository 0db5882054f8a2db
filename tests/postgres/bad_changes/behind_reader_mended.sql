-- Purpose:     the same change, which gives up after 100 ms, lets traffic pass, and tries again.
-- Requires:    the demo catalogue, sql/support.
-- Locks:       ACCESS EXCLUSIVE on catalogue.geometrias, short; each try waits at most 100 ms for it.
-- Transaction: no.

call comporta.with_lock(array['catalogue.geometrias'], 'alter table catalogue.geometrias add column if not exists note text');
