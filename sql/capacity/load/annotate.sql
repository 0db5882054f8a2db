-- Purpose:     annotates a geometry that this client has read, as an editor; reads one first when it has not (read_id.sql does).
-- Requires:    pgbench -M simple -D low=.. -D seen_id=0; a sign-in that may take the role.
-- Locks:       ROW EXCLUSIVE on annotations, KEY SHARE on the row.
-- Transaction: yes, one for each statement.

\if :seen_id = 0
set role gis_editor \; select id from catalogue.geometrias where id >= :low order by id limit 1 \gset seen_
\endif
\set number random(1, 1000000)
set role gis_editor \; insert into catalogue.annotations (geometria_id, author, body) values (:seen_id, 'traffic', 'traffic ladder-:client_id-:number') returning id;
