-- Purpose:     the mark that says which demo catalogue is here, and whether it is finished.
-- Requires:    CREATE on the database.
-- Locks:       none that matter.
-- Transaction: yes, the one that creates the catalogue.

create schema if not exists comporta;

create table if not exists comporta.demo (
    only_one    boolean primary key default true check (only_one),
    rows        bigint not null,
    seed        bigint not null,
    started_at  timestamptz not null default clock_timestamp(),
    finished_at timestamptz
);
comment on table comporta.demo is 'The demo catalogue of this database; finished_at is null while it is being made, or when that was cut short.';
