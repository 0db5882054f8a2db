-- Purpose:     seeded mistake: a quick ALTER TABLE without lock_timeout waits behind a long reader, and everyone behind it.
-- Requires:    the demo catalogue, and somebody with a transaction open that has read geometrias.
-- Locks:       ACCESS EXCLUSIVE on catalogue.geometrias, short once it has it.
-- Transaction: no.

alter table catalogue.geometrias add column note text;
