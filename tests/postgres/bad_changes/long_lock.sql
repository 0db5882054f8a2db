-- Purpose:     seeded mistake: a quick ALTER TABLE opens a transaction that then works for a second and a half.
-- Requires:    the demo catalogue.
-- Locks:       ACCESS EXCLUSIVE on catalogue.geometrias until COMMIT.
-- Transaction: its own.

set lock_timeout = '2s';
begin;
alter table catalogue.geometrias add column note text;
select pg_sleep(1.5); -- stands for a backfill
commit;
