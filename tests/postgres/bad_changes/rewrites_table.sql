-- Purpose:     seeded mistake: a volatile default writes every row again under ACCESS EXCLUSIVE.
-- Requires:    the demo catalogue.
-- Locks:       ACCESS EXCLUSIVE on catalogue.geometrias for the whole rewrite.
-- Transaction: no.

set lock_timeout = '2s';
alter table catalogue.geometrias add column token uuid not null default gen_random_uuid();
