-- Purpose:     what the rows of the demo catalogue are made from: shapes, places, layers, words, and the dice.
-- Requires:    10_schema.sql; comporta.demo_outline (number, name, geom), filled by comporta.demo.load from Natural Earth.
-- Locks:       none that matter: every object is new.
-- Transaction: yes, runs in one or in none.
--
-- Everything here lives in the schema comporta and is dropped by 40_finish.sql.

-- A number in [0, 1) that depends on nothing but the row, the question (salt) and the seed: the same on every run.
create or replace function comporta.demo_roll(row_number bigint, salt integer, seed bigint) returns double precision
    language sql immutable parallel safe
as $$ select ((hashint8extended($1, $3 * 1000 + $2) >> 11) & 9007199254740991)::double precision / 9007199254740992.0 $$;

-- Real outlines of islands and mainlands, thinned to 20..60 vertices, moved to the origin and brought to a span of 1.
drop table if exists comporta.demo_shape;
create unlogged table comporta.demo_shape as
with measured as materialized (
    select number, geom, greatest(st_xmax(geom) - st_xmin(geom), st_ymax(geom) - st_ymin(geom)) as span
    from comporta.demo_outline
    where st_npoints(geom) <= 400
), thinned as (
    select number, st_multi(case when st_npoints(geom) <= 60 then geom
                                 else st_simplifypreservetopology(geom, span * least(0.02, 0.00006 * st_npoints(geom))) end) as geom
    from measured
), boxed as materialized (
    select number, geom,
           greatest(st_xmax(geom) - st_xmin(geom), st_ymax(geom) - st_ymin(geom)) as span,
           (st_xmax(geom) + st_xmin(geom)) / 2 as x,
           (st_ymax(geom) + st_ymin(geom)) / 2 as y
    from thinned
    where st_npoints(geom) between 20 and 60 and st_isvalid(geom)
)
select row_number() over (order by number) - 1 as number,
       st_affine(geom, 1 / span, 0, 0, 1 / span, -x / span, -y / span) as geom
from boxed;
alter table comporta.demo_shape add primary key (number);

-- Places: corners of coasts and borders, drawn inland by a share that differs for each. Half of the rows lie in Brazil.
drop table if exists comporta.demo_place;
create unlogged table comporta.demo_place as
with inland as materialized (
    select number, name,
           (st_xmax(geom) + st_xmin(geom)) / 2 as x,
           (st_ymax(geom) + st_ymin(geom)) / 2 as y,
           st_simplify(geom, case when name = 'Brasil' then 0.02 else 0.2 end) as geom
    from comporta.demo_outline
    where st_npoints(geom) >= 64
), candidates as (
    select i.name,
           i.number,
           d.path[3] as vertex,
           st_x(d.geom) + comporta.demo_roll(d.path[3], 1, i.number) * (i.x - st_x(d.geom)) as x,
           st_y(d.geom) + comporta.demo_roll(d.path[3], 1, i.number) * (i.y - st_y(d.geom)) as y
    from inland i
    cross join lateral st_dumppoints(i.geom) d
)
select row_number() over (partition by name = 'Brasil' order by number, vertex) - 1 as number,
       name = 'Brasil' as is_home,
       name as country,
       x,
       y
from candidates
where abs(x) < 178 and y between -75 and 80;
alter table comporta.demo_place add primary key (is_home, number);

drop table if exists comporta.demo_layer;
create unlogged table comporta.demo_layer (
    code     text primary key,
    title    text not null,
    official boolean not null,
    share    double precision not null,
    smallest double precision not null,
    largest  double precision not null,
    kinds    text[] not null
);
comment on column comporta.demo_layer.smallest is 'Span of the smallest outline, in degrees.';
insert into comporta.demo_layer values
    ('parcelas', 'Parcelas rurais', true, 0.34, 0.002, 0.02, '{Fazenda,Sítio,Gleba,Chácara,Estância,Lote,Assentamento}'),
    ('uso_solo', 'Uso e cobertura do solo', false, 0.17, 0.005, 0.06, '{Pastagem,Lavoura,Floresta,Silvicultura,Várzea,Área urbana}'),
    ('loteamentos', 'Loteamentos', false, 0.12, 0.001, 0.008, '{Loteamento,Residencial,Condomínio,Parque,Jardim}'),
    ('bairros', 'Bairros', true, 0.10, 0.005, 0.03, '{Bairro,Vila,Jardim,Núcleo,Conjunto}'),
    ('lagos', 'Lagos e represas', true, 0.07, 0.01, 0.3, '{Lago,Lagoa,Represa,Açude,Reservatório}'),
    ('zonas_risco', 'Zonas de risco', false, 0.06, 0.001, 0.02, '{Encosta,Área de inundação,Área de risco,Voçoroca}'),
    ('municipios', 'Municípios', true, 0.05, 0.1, 0.6, '{Município,Distrito}'),
    ('bacias', 'Bacias hidrográficas', true, 0.04, 0.05, 0.9, '{Bacia,Sub-bacia,Microbacia}'),
    ('unidades_conservacao', 'Unidades de conservação', true, 0.03, 0.03, 0.7, '{Parque Nacional,Reserva Biológica,Estação Ecológica,Área de Proteção}'),
    ('ilhas', 'Ilhas', true, 0.02, 0.003, 0.2, '{Ilha,Ilhota,Arquipélago,Atol}');

-- Words from the most to the least used; a row takes word number floor(count * roll ^ 3), so a few names are very common.
drop table if exists comporta.demo_word;
create unlogged table comporta.demo_word as
select nth - 1 as number, word
from unnest(array[
    'São João', 'Santo Antônio', 'Boa Vista', 'São José', 'Santa Maria', 'Nossa Senhora da Conceição', 'São Francisco', 'Bela Vista', 'Santa Rita',
    'São Sebastião', 'Água Limpa', 'Santa Luzia', 'Boa Esperança', 'São Pedro', 'Três Irmãos', 'Água Branca', 'Santana', 'São Miguel', 'Palmeiras',
    'Ribeirão Preto', 'Córrego Fundo', 'Conceição', 'Vitória', 'Paraíso', 'Cachoeira', 'Primavera', 'Mãe Rainha', 'Bom Jesus', 'Santa Bárbara', 'São Luís',
    'Alvorada', 'Esperança', 'Jatobá', 'Ipê Amarelo', 'Buriti', 'Pequi', 'Jacarandá', 'Araucária', 'Figueira', 'Mangueiral', 'Coqueiros', 'Açaí', 'Maçaranduba',
    'Sabiá', 'Tuiuiú', 'Curicaca', 'Arara Azul', 'Onça Pintada', 'Capivara', 'Jacaré', 'Tamanduá', 'Lobo Guará', 'Pirarucu', 'Guará', 'Jaçanã', 'Quero-Quero',
    'Rio das Pedras', 'Rio Claro', 'Pedra Grande', 'Pedra Azul', 'Morro Alto', 'Morro do Chapéu', 'Serra Negra', 'Serra da Canastra', 'Vale Verde', 'Várzea Grande',
    'Campo Grande', 'Campo Limpo', 'Lagoa Santa', 'Lagoa dos Patos', 'Barra do Rio', 'Ponta Grossa', 'Porto Seguro', 'Praia Grande', 'Areia Branca', 'Três Corações',
    'Sete Lagoas', 'Cinco Rios', 'Dois Córregos', 'Passo Fundo', 'Capão Bonito', 'Mata Atlântica', 'Cerrado Alto', 'Caatinga', 'Pampa', 'Pantanal', 'Amazônia',
    'Guarani', 'Tupinambá', 'Xavante', 'Caiapó', 'Paraná', 'Paranaíba', 'Piauí', 'Maranhão', 'Goiás', 'Ceará', 'Pará', 'Itaúna', 'Itaipu', 'Ibirapuera', 'Jundiaí',
    'Taubaté', 'Tietê', 'Uberlândia', 'Macaé', 'Niterói', 'Maceió', 'Cuiabá', 'Florianópolis', 'Chapecó', 'Criciúma', 'Bagé', 'Santarém', 'Óbidos', 'Évora',
    'Bragança', 'Guimarães', 'Setúbal', 'Coimbra', 'Viseu', 'Lobito', 'Benguela', 'Inhambane', 'Nampula', 'São Tomé', 'Príncipe', 'Mindelo', 'Bissau', 'Díli'
]) with ordinality as words (word, nth);
alter table comporta.demo_word add primary key (number);

insert into catalogue.layers (code, title, is_official)
select code, title, official from comporta.demo_layer order by share desc;
