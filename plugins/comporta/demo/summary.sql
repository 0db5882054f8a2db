select (select count(*) from catalogue.annotations),
       (select count(*) from catalogue.inspections),
       (select sum(pg_total_relation_size(oid))::bigint from pg_class where relnamespace = 'catalogue'::regnamespace and relkind = 'r')
