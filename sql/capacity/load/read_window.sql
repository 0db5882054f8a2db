-- Purpose:     lists what lies in a box and in four days, as a reader.
-- Requires:    pgbench -M simple; a sign-in that may take the role.
-- Locks:       none that matter.
-- Transaction: yes, one statement.

-- Half of the rows lie in Brazil, the others along the coasts and borders of the world.
\set far random(0, 1)
\set abroad random(1, 16)
\set x case when :far = 0 then random(-690, -400) / 10.0 when :abroad = 1 then -64.2 when :abroad = 2 then -71.5 when :abroad = 3 then -75.6 when :abroad = 4 then -99.1 when :abroad = 5 then -95.7 when :abroad = 6 then -106.3 when :abroad = 7 then 13.4 when :abroad = 8 then 25.5 when :abroad = 9 then 17.9 when :abroad = 10 then 37.9 when :abroad = 11 then 96.7 when :abroad = 12 then 78.9 when :abroad = 13 then 104.2 when :abroad = 14 then 117.3 when :abroad = 15 then 134.5 else 172.0 end + random(-150, 150) / 100.0
\set y case when :far = 0 then random(-290, 10) / 10.0 when :abroad = 1 then -31.4 when :abroad = 2 then -38.7 when :abroad = 3 then 4.6 when :abroad = 4 then 19.4 when :abroad = 5 then 37.1 when :abroad = 6 then 56.1 when :abroad = 7 then 47.5 when :abroad = 8 then 62.5 when :abroad = 9 then -12.3 when :abroad = 10 then 0.5 when :abroad = 11 then 61.0 when :abroad = 12 then 21.0 when :abroad = 13 then 35.9 when :abroad = 14 then -1.0 when :abroad = 15 then -25.7 else -41.5 end + random(-150, 150) / 100.0
\set west :x - 4.0
\set east :x + 4.0
\set south :y - 4.0
\set north :y + 4.0
\set year random(2015, 2028)
\set month random(1, 12)
\set day random(1, 24)
\set until :day + 4
set role gis_reader \; select id, name, data_referencia
from catalogue.geometrias
where geom && public.st_makeenvelope(:west, :south, :east, :north, 4326)
  and data_referencia >= ':year-:month-:day' and data_referencia < ':year-:month-:until'
limit 50;
