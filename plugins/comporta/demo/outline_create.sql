drop table if exists comporta.demo_outline;
create unlogged table comporta.demo_outline (
    number integer primary key,
    name   text not null,
    geom   geometry(MultiPolygon, 4326) not null
)
