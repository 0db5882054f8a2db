-- Purpose:     leaves the demo catalogue as 10_schema.sql made it, now with rows: indexes, identity, statistics.
-- Requires:    30_rows.sql and the rows; run again after a failure, it continues.
-- Locks:       SHARE on each table while its index is built.
-- Transaction: no for VACUUM, the last statement; the rest may.

do $$
declare
    kept record;
begin
    for kept in select * from comporta.demo_index order by name loop
        execute kept.definition;
        if kept.comment is not null then
            execute format('comment on index %s is %L', kept.name, kept.comment);
        end if;
        delete from comporta.demo_index where name = kept.name;
    end loop;
end
$$;

select setval(pg_get_serial_sequence('catalogue.geometrias', 'id'), max(id)) from catalogue.geometrias;

drop procedure if exists comporta.demo_fill(bigint, bigint, bigint, bigint);
drop function if exists comporta.demo_roll(bigint, integer, bigint);
drop table if exists comporta.demo_index, comporta.demo_outline, comporta.demo_shape, comporta.demo_place, comporta.demo_layer, comporta.demo_word;

vacuum (analyze) catalogue.layers, catalogue.geometrias, catalogue.annotations, catalogue.inspections, catalogue.edits;
