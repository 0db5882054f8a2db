-- Purpose:     annotations on about a tenth of the geometries and inspections of about a twentieth.
-- Requires:    every geometry of the demo catalogue; session_replication_role = replica; setting comporta_demo.seed.
-- Locks:       ROW EXCLUSIVE on annotations and inspections.
-- Transaction: yes, runs in one or in none.

insert into catalogue.annotations (geometria_id, author, body, created_at)
select g.id,
       (array['cartografia', 'cadastro', 'campo', 'fiscalização'])[1 + floor(4 * comporta.demo_roll(g.id, 31, seed))::integer],
       (array['Limite conferido com a imagem mais recente.', 'Confrontante contesta o traçado a leste.', 'Topônimo corrigido conforme a placa.',
              'Aguardando nova medição em campo.', 'Sobreposição menor que a precisão declarada.'])[1 + floor(5 * comporta.demo_roll(g.id, 32, seed))::integer],
       g.created_at + interval '30 days' * comporta.demo_roll(g.id, 33, seed)
from catalogue.geometrias g
cross join (select current_setting('comporta_demo.seed')::bigint) run (seed)
where comporta.demo_roll(g.id, 30, seed) < 0.10
order by g.id;

insert into catalogue.inspections (geometria_id, inspected_on, outcome)
select g.id,
       (g.created_at at time zone 'UTC' + interval '90 days' * comporta.demo_roll(g.id, 36, seed))::date,
       (array['ok', 'moved', 'gone'])[1 + floor(3 * comporta.demo_roll(g.id, 37, seed) ^ 3)::integer]
from catalogue.geometrias g
cross join (select current_setting('comporta_demo.seed')::bigint) run (seed)
where comporta.demo_roll(g.id, 35, seed) < 0.05
order by g.id;
