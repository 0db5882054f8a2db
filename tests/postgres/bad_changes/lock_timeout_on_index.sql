-- Purpose:     seeded mistake: a short lock_timeout, which many linters ask for, cancels CONCURRENTLY behind an open snapshot.
-- Requires:    the demo catalogue, and somebody with a transaction open.
-- Locks:       SHARE UPDATE EXCLUSIVE on catalogue.geometrias.
-- Transaction: no.

set lock_timeout = '100ms';
create index concurrently geometrias_created_idx on catalogue.geometrias (created_at);
