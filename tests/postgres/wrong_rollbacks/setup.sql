-- Purpose:     what the demo catalogue has not, and a rollback can lose: jobs, settings, a plain sequence, types, a table with nulls.
-- Requires:    the demo catalogue, superuser.
-- Locks:       none that matter.
-- Transaction: yes.

create type catalogue.stage as enum ('received', 'filed');
create domain catalogue.protocol_code as text constraint protocol_code_form check (value ~ '^[A-Z]+$');
create sequence catalogue.protocol_seq cache 20;
create table catalogue.protocols (
    number  bigint primary key default nextval('catalogue.protocol_seq'),
    code    catalogue.protocol_code,
    stage   catalogue.stage not null default 'received',
    weight  numeric,
    share   double precision,
    note    text
);
alter sequence catalogue.protocol_seq owned by catalogue.protocols.number;
alter table catalogue.protocols owner to gis_owner;
grant select, insert on catalogue.protocols to gis_editor;
grant usage on sequence catalogue.protocol_seq to gis_editor;
insert into catalogue.protocols (code, weight, share, note)
select 'AB', n + 1.5, n / 7.0, case when n % 2 = 0 then 'note ' || n end from generate_series(1, 20) n;

-- Two of the names are those that OPT4 and OPT5 use for jobs of their own: they come back at the rollback.
select cron.schedule('nightly_vacuum', '0 3 * * *', 'vacuum catalogue.edits');
select cron.schedule('comporta_opt4_ensure_partitions', '30 4 * * 0', 'select 4');
select cron.alter_job(cron.schedule('comporta_prune_search_runs', '45 5 1 * *', 'select 5'), active := false);

alter database gis set work_mem to '7MB';
alter role gis_reader in database gis set statement_timeout to '30s';
