-- Purpose:     takes away a geometry that this client added, as an editor; adds one first when it has none (insert.sql adds more).
-- Requires:    pgbench -M simple -D my_id=0; a sign-in that may take the role.
-- Locks:       ROW EXCLUSIVE on geometrias and on what its triggers write.
-- Transaction: yes, one for each statement.

\if :my_id = 0
-- Half of the rows lie in Brazil, the others along the coasts and borders of the world.
\set far random(0, 1)
\set abroad random(1, 16)
\set x case when :far = 0 then random(-690, -400) / 10.0 when :abroad = 1 then -64.2 when :abroad = 2 then -71.5 when :abroad = 3 then -75.6 when :abroad = 4 then -99.1 when :abroad = 5 then -95.7 when :abroad = 6 then -106.3 when :abroad = 7 then 13.4 when :abroad = 8 then 25.5 when :abroad = 9 then 17.9 when :abroad = 10 then 37.9 when :abroad = 11 then 96.7 when :abroad = 12 then 78.9 when :abroad = 13 then 104.2 when :abroad = 14 then 117.3 when :abroad = 15 then 134.5 else 172.0 end + random(-150, 150) / 100.0
\set y case when :far = 0 then random(-290, 10) / 10.0 when :abroad = 1 then -31.4 when :abroad = 2 then -38.7 when :abroad = 3 then 4.6 when :abroad = 4 then 19.4 when :abroad = 5 then 37.1 when :abroad = 6 then 56.1 when :abroad = 7 then 47.5 when :abroad = 8 then 62.5 when :abroad = 9 then -12.3 when :abroad = 10 then 0.5 when :abroad = 11 then 61.0 when :abroad = 12 then 21.0 when :abroad = 13 then 35.9 when :abroad = 14 then -1.0 when :abroad = 15 then -25.7 else -41.5 end + random(-150, 150) / 100.0
-- A star of 24 corners around the place: always valid.
\set size random(50, 250) / 10000.0
\set x0 :x + 0.6944 * :size
\set y0 :y + 0.0000 * :size
\set x1 :x + 0.6194 * :size
\set y1 :y + 0.1660 * :size
\set x2 :x + 0.6568 * :size
\set y2 :y + 0.3792 * :size
\set x3 :x + 0.4681 * :size
\set y3 :y + 0.4681 * :size
\set x4 :x + 0.3133 * :size
\set y4 :y + 0.5427 * :size
\set x5 :x + 0.1969 * :size
\set y5 :y + 0.7347 * :size
\set x6 :x + 0.0000 * :size
\set y6 :y + 0.9672 * :size
\set x7 :x + -0.2382 * :size
\set y7 :y + 0.8888 * :size
\set x8 :x + -0.4530 * :size
\set y8 :y + 0.7847 * :size
\set x9 :x + -0.4870 * :size
\set y9 :y + 0.4870 * :size
\set x10 :x + -0.7055 * :size
\set y10 :y + 0.4073 * :size
\set x11 :x + -0.6865 * :size
\set y11 :y + 0.1839 * :size
\set x12 :x + -0.6691 * :size
\set y12 :y + 0.0000 * :size
\set x13 :x + -0.6206 * :size
\set y13 :y + -0.1663 * :size
\set x14 :x + -0.5939 * :size
\set y14 :y + -0.3429 * :size
\set x15 :x + -0.6866 * :size
\set y15 :y + -0.6866 * :size
\set x16 :x + -0.4658 * :size
\set y16 :y + -0.8068 * :size
\set x17 :x + -0.2388 * :size
\set y17 :y + -0.8912 * :size
\set x18 :x + -0.0000 * :size
\set y18 :y + -0.9202 * :size
\set x19 :x + 0.1753 * :size
\set y19 :y + -0.6543 * :size
\set x20 :x + 0.3620 * :size
\set y20 :y + -0.6270 * :size
\set x21 :x + 0.6016 * :size
\set y21 :y + -0.6016 * :size
\set x22 :x + 0.7732 * :size
\set y22 :y + -0.4464 * :size
\set x23 :x + 0.9098 * :size
\set y23 :y + -0.2438 * :size
\set year random(2015, 2028)
\set month random(1, 12)
\set day random(1, 28)
\set number random(1, 1000000)
set role gis_editor \; insert into catalogue.geometrias (layer, name, geom, properties, data_referencia)
values ('parcelas', 'Sítio Novo :number', 'SRID=4326;MULTIPOLYGON(((:x0 :y0, :x1 :y1, :x2 :y2, :x3 :y3, :x4 :y4, :x5 :y5, :x6 :y6, :x7 :y7, :x8 :y8, :x9 :y9, :x10 :y10, :x11 :y11, :x12 :y12, :x13 :y13, :x14 :y14, :x15 :y15, :x16 :y16, :x17 :y17, :x18 :y18, :x19 :y19, :x20 :y20, :x21 :y21, :x22 :y22, :x23 :y23, :x0 :y0)))',
        jsonb_build_object('fonte', 'traffic', 'rev', 'ladder-:client_id-:number'::text), ':year-:month-:day'::date)
returning id \gset my_
\endif
set role gis_editor \; delete from catalogue.geometrias where id = :my_id;
\set my_id 0
