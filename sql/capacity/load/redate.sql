-- Purpose:     moves a geometry to another day, as an editor.
-- Requires:    pgbench -M simple -D low=.. -D high=.. (ids that exist); a sign-in that may take the role.
-- Locks:       ROW EXCLUSIVE on geometrias and on what its triggers write.
-- Transaction: yes, one statement.

-- Each client changes rows of its own, as those who edit share the work: two never wait for one row, up to 64 clients.
\set id :low + 64 * random(0, (:high - :low - 63) / 64) + mod(:client_id, 64)
\set year random(2015, 2028)
\set month random(1, 12)
\set day random(1, 28)
set role gis_editor \; update catalogue.geometrias set data_referencia = ':year-:month-:day'::date where id = :id;
