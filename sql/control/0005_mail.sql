-- Purpose:     mail that is owed: one row for each event of the ledger and person told of it, and how far the ledger was read.
-- Requires:    0001_ledger.sql; when it runs, the function comporta.now() of 0004_gates.sql.
-- Locks:       none on anything that exists.
-- Transaction: yes.

create table comporta.mail (
    id         bigint generated always as identity primary key,
    event      bigint not null,
    recipient  text not null check (recipient <> ''),
    address    text not null,
    notice     text not null check (notice <> ''),
    feature    text not null,
    gate       bigint,
    message_id text not null unique,
    subject    text not null,
    plain      text not null,
    html       text not null,
    state      text not null default 'waiting' check (state in ('waiting', 'sent', 'failed')),
    tries      integer not null default 0,
    said       text not null default '',
    created_at timestamptz not null,
    next_due   timestamptz not null,
    settled_at timestamptz check ((settled_at is null) = (state = 'waiting')),
    constraint mail_once unique (event, recipient)
);
create index mail_due on comporta.mail (next_due, id) where state = 'waiting';
create index mail_of_recipient on comporta.mail (recipient, id);

comment on table comporta.mail is 'Mail that is owed. No truth of its own: what was sent and what failed are events of the ledger.';
comment on column comporta.mail.event is 'The event that it tells of; with the recipient the reason why a restart sends nothing twice.';
comment on column comporta.mail.recipient is 'The login in config/gates.yaml; address is that person''s at the time.';
comment on column comporta.mail.message_id is 'The same at every try, so that a reader''s mail program shows one mail even if a crash hid that it had been taken.';
comment on column comporta.mail.said is 'What the mail server, or the network, answered at the last try.';

-- One row. A new installation tells of what happens from now on, not of the past.
create table comporta.mail_cursor (
    one      boolean primary key default true check (one),
    event    bigint not null,
    moved_at timestamptz not null default clock_timestamp()
);
insert into comporta.mail_cursor (event) select coalesce(max(id), 0) from comporta.event;
comment on table comporta.mail_cursor is 'The last event of the ledger that was turned into mail; moves in the transaction that writes the mail.';

grant select, insert, update on comporta.mail to comporta_app;
grant select, update on comporta.mail_cursor to comporta_app;
