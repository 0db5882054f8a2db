-- Purpose:     sets secondary indexes aside and makes the procedure that writes rows FIRST..LAST of the demo catalogue;
--              the same numbers give the same rows, in any order and from several sessions at once.
-- Requires:    20_shapes.sql; call it with session_replication_role = replica, so that loading leaves no edit records.
-- Locks:       ACCESS EXCLUSIVE on the catalogue's tables while their indexes go; the procedure takes ROW EXCLUSIVE on geometrias.
-- Transaction: yes, runs in one or in none.

-- Filling first and indexing afterwards is several times faster; 40_finish.sql puts back exactly what is noted here.
create table if not exists comporta.demo_index (
    name       text primary key,
    definition text not null,
    comment    text
);
do $$
declare
    found record;
begin
    for found in
        select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition, obj_description(i.indexrelid, 'pg_class') as comment
        from pg_index i
        join pg_class c on c.oid = i.indrelid
        where c.relnamespace = 'catalogue'::regnamespace
          and not exists (select from pg_constraint k where k.conindid = i.indexrelid)
    loop
        insert into comporta.demo_index values (found.name, found.definition, found.comment);
        execute format('drop index %s', found.name);
    end loop;
end
$$;

analyze comporta.demo_shape, comporta.demo_place, comporta.demo_layer, comporta.demo_word;

create or replace procedure comporta.demo_fill(first bigint, last bigint, total bigint, seed bigint)
    language plpgsql
as $$
declare
    shapes  bigint := (select count(*) from comporta.demo_shape);
    words   bigint := (select count(*) from comporta.demo_word);
    at_home bigint := (select count(*) from comporta.demo_place where is_home);
    abroad  bigint := (select count(*) from comporta.demo_place where not is_home);
    layer_codes text[];
    layer_ends  double precision[];
begin
    select array_agg(code order by share desc, code), array_agg(upto order by share desc, code)
      into layer_codes, layer_ends
      from (select code, share, sum(share) over (order by share desc, code) as upto from comporta.demo_layer) l;

    insert into catalogue.geometrias (id, layer, name, geom, properties, data_referencia, restricted, created_at, updated_at)
    select n,
           l.code,
           concat_ws(' ',
               l.kinds[1 + floor(cardinality(l.kinds) * comporta.demo_roll(n, 2, seed) ^ 2)::integer],
               w.word,
               case when comporta.demo_roll(n, 4, seed) < 0.55 then (1 + floor(400 * comporta.demo_roll(n, 5, seed) ^ 2))::text
                    when comporta.demo_roll(n, 4, seed) < 0.75 then (array['Norte', 'Sul', 'Leste', 'Oeste', 'de Baixo', 'de Cima', 'Velha', 'Novo'])[1 + floor(8 * comporta.demo_roll(n, 5, seed))::integer]
               end),
           st_affine(s.geom, size * cos(turn), -size * sin(turn), size * sin(turn), size * cos(turn),
                     p.x + (comporta.demo_roll(n, 12, seed) - 0.5) * 1.6, p.y + (comporta.demo_roll(n, 13, seed) - 0.5) * 1.6),
           jsonb_build_object(
               'codigo', upper(left(l.code, 3)) || '-' || lpad(n::text, 9, '0'),
               'pais', p.country,
               'fonte', (array['levantamento', 'imagem', 'cadastro', 'convênio'])[1 + floor(4 * comporta.demo_roll(n, 14, seed) ^ 2)::integer],
               'situacao', (array['vigente', 'em revisão', 'histórico'])[1 + floor(3 * comporta.demo_roll(n, 15, seed) ^ 3)::integer],
               'precisao_m', round((0.5 + 30 * comporta.demo_roll(n, 16, seed) ^ 2)::numeric, 1)),
           date '2015-01-01' + floor(5114 * comporta.demo_roll(n, 17, seed) ^ 0.6)::integer,
           comporta.demo_roll(n, 18, seed) < 0.03,
           made,
           case when comporta.demo_roll(n, 20, seed) < 0.2 then made + interval '60 days' * comporta.demo_roll(n, 21, seed) else made end
    from generate_series(first, last) n
    -- A count of rows that grows with the square of time: the catalogue receives more every month, up to November 2026.
    cross join lateral (select timestamptz '2019-01-01 00:00+00'
                               + interval '2861 days' * sqrt((n - comporta.demo_roll(n, 19, seed)) / total)) history (made)
    join comporta.demo_layer l on l.code = layer_codes[1 + width_bucket(comporta.demo_roll(n, 1, seed), layer_ends[1:cardinality(layer_ends) - 1])]
    join comporta.demo_word w on w.number = floor(words * comporta.demo_roll(n, 3, seed) ^ 3)::bigint
    join comporta.demo_shape s on s.number = floor(shapes * comporta.demo_roll(n, 6, seed))::bigint
    join comporta.demo_place p on p.is_home = (comporta.demo_roll(n, 7, seed) < 0.5)
         and p.number = floor(case when comporta.demo_roll(n, 7, seed) < 0.5 then at_home else abroad end * comporta.demo_roll(n, 8, seed))::bigint
    cross join lateral (select l.smallest * (l.largest / l.smallest) ^ comporta.demo_roll(n, 9, seed), 2 * pi() * comporta.demo_roll(n, 10, seed)) form (size, turn)
    order by n;
end
$$;
