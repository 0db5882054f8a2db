-- Purpose:     seeded mistake: a unique index on a column with duplicates fails half way and stays behind, invalid.
-- Requires:    the demo catalogue.
-- Locks:       SHARE UPDATE EXCLUSIVE on catalogue.geometrias.
-- Transaction: no.

create unique index concurrently geometrias_layer_key on catalogue.geometrias (layer);
select 'never reached';
