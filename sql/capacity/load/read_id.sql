-- Purpose:     reads one geometry by its id, as a reader; seen_id is a row that annotate.sql may annotate.
-- Requires:    pgbench -M simple -D low=.. -D high=.. (ids that exist); a sign-in that may take the role.
-- Locks:       none that matter.
-- Transaction: yes, one statement.

\set id random(:low, :high)
set role gis_reader \; select id, layer, name, geom, properties, data_referencia from catalogue.geometrias where id = :id \aset seen_
