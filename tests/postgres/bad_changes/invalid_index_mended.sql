-- Purpose:     the same index, not unique, with a budget of its own; a leftover of an earlier try is removed first.
-- Requires:    the demo catalogue.
-- Locks:       SHARE UPDATE EXCLUSIVE on catalogue.geometrias, which blocks neither reads nor writes.
-- Transaction: no.

set lock_timeout = 0;
drop index concurrently if exists catalogue.geometrias_layer_key;
create index concurrently geometrias_layer_key on catalogue.geometrias (layer);
