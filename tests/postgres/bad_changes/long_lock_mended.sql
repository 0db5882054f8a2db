-- Purpose:     the same change with nothing but the ALTER TABLE under the lock.
-- Requires:    the demo catalogue, sql/support.
-- Locks:       ACCESS EXCLUSIVE on catalogue.geometrias for one quick statement.
-- Transaction: no.

call comporta.with_lock(array['catalogue.geometrias'], 'alter table catalogue.geometrias add column if not exists note text');
select pg_sleep(1.5); -- stands for a backfill
