-- Purpose:     the ledger as it is after all migrations that changed it: the one file to read. What stands in one migration alone, such as
--              the gates (0004), is read there. A test holds this file and the migrations together; never change a migration that was released.
-- Requires:    as 0001_ledger.sql. Databases are made by the migrations, not by this file.
-- Locks:       none on anything that exists.
-- Transaction: yes.

create schema if not exists comporta;
comment on schema comporta is 'What Comporta records of itself: the ledger and what is folded from it.';

create table comporta.migration (
    name       text primary key,
    sha256     text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    applied_at timestamptz not null default clock_timestamp()
);
comment on table comporta.migration is 'Files of sql/control that were applied, with the digest of the bytes that ran.';

-- Roles belong to the cluster: another control database, or another migration at this moment, may have made it.
do $$
begin
    create role comporta_app nologin;
exception
    when duplicate_object or unique_violation then null;
end
$$;
do $$
begin
    execute format('grant comporta_app to %I', current_user);
exception
    when insufficient_privilege or invalid_grant_operation then null;
end
$$;

create table comporta.event (
    id              bigint primary key,
    stream          text not null,
    version         integer not null,
    feature         text not null,
    event_type      text not null,
    workflow        text,
    phase           text,
    payload         jsonb not null,
    actor           text not null,
    "timestamp"     timestamptz not null,
    idempotency_key text,
    constraint event_stream_version unique (stream, version)
);
create unique index event_idempotency_key on comporta.event (idempotency_key) where idempotency_key is not null;

comment on table comporta.event is 'The log. Written by comporta.record only; id has no gaps and follows the order of commits.';
comment on column comporta.event.version is 'Position in its stream, from 1, without gaps: the basis of optimistic concurrency.';
comment on column comporta.event.feature is 'What the event is about: the release, or the feature of a workflow.';
comment on column comporta.event.phase is 'The change or the step.';
comment on column comporta.event."timestamp" is 'When it was recorded, by the clock of this database. Times of the domain belong into the payload.';
comment on column comporta.event.idempotency_key is 'Names the intent: appending it again returns the first id and adds nothing.';

create table comporta.block (
    n         bigint primary key,
    first_id  bigint not null,
    last_id   bigint not null,
    leaves    bytea not null,
    prev_hash bytea not null,
    hash      bytea not null
);
-- Digests do not compress: trying costs time for nothing.
alter table comporta.block alter column leaves set storage external;
comment on table comporta.block is 'One row for each call of comporta.record: the chain. An anchor outside this database needs (n, last_id, hash) of the last row.';
comment on column comporta.block.leaves is 'Digests of the block''s events in order, 32 bytes each; they name the event when a block does not verify.';
comment on column comporta.block.hash is 'sha256(0x03, n, first_id, last_id, sha256(0x02, leaves), prev_hash); integers as 8 bytes, big-endian.';

-- A rule would swallow the statement in silence, and there is no rule on TRUNCATE: a trigger refuses it aloud.
create function comporta.refuse_change() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '% on %.% refused: the ledger is append-only', tg_op, tg_table_schema, tg_table_name
        using errcode = 'LG003', hint = 'Nothing was changed. To correct an event, append another one that says so.';
end
$$;

create trigger append_only before update or delete or truncate on comporta.event
    for each statement execute function comporta.refuse_change();
create trigger append_only before update or delete or truncate on comporta.block
    for each statement execute function comporta.refuse_change();
-- ALWAYS: session_replication_role = replica does not switch them off.
alter table comporta.event enable always trigger append_only;
alter table comporta.block enable always trigger append_only;

create function comporta.now() returns timestamptz
    language sql volatile
    return clock_timestamp();
comment on function comporta.now() is 'The clock of the ledger and of everything that is timed by it. A test replaces it.';

-- The digest of an event: sha256 of the wire format of its row (record_send: each field with its type and length, a null has
-- length -1). No two different rows share it, and one call of a built-in function makes it.
create function comporta.leaf(event comporta.event) returns bytea
    language sql stable
    return sha256(record_send(row(event.id, event.stream, event.version, event.feature, event.event_type, event.workflow,
        event.phase, event.payload, event.actor, event."timestamp", event.idempotency_key)));
comment on function comporta.leaf(comporta.event) is 'The digest of an event.';

create function comporta.block_hash(n bigint, first_id bigint, last_id bigint, leaves bytea, prev_hash bytea) returns bytea
    language sql immutable
    return sha256('\x03'::bytea || int8send(n) || int8send(first_id) || int8send(last_id) || sha256('\x02'::bytea || leaves) || prev_hash);
comment on function comporta.block_hash(bigint, bigint, bigint, bytea, bytea) is 'The hash of a block: what it covers, chained to the block before.';

-- Appends a batch to one stream as one block and returns the ids of its events, in the order given. For the functions that guard a
-- family of streams; everybody else has comporta.append.
--
-- EVENTS is an array of objects with event_type, feature, actor, and optionally workflow, phase, payload, idempotency_key.
-- EXPECTED_VERSION: the version of the last event that the caller has seen (0: the stream is new), null: any.
-- An event whose idempotency key is in the ledger already is not written again: its first id is returned.
--
-- Numbers and chain are given out under one lock that is held until commit, so the order of ids is the order of
-- commits and "where id > last" misses nothing. Commit soon after calling: every other writer waits for it.
--
-- It runs with the rights and the settings of the function that calls it: that one is SECURITY DEFINER, and sets what comporta.append
-- sets. A second layer of the same would cost a tenth of an append.
create function comporta.record(stream text, expected_version integer, events jsonb) returns bigint[]
    language plpgsql
as $$
#variable_conflict use_column
declare
    head_n    bigint;
    head_id   bigint;
    head_hash bytea;
    one       jsonb;
    one_key   text;
    one_id    bigint;
    one_leaf  bytea;
    former    bigint[];
    fresh     jsonb := events;
    found_version integer;
    new_head_id bigint;
    recorded  timestamptz;
    conflict  record;
begin
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        raise exception 'comporta.record was called with search_path %', pg_catalog.current_setting('search_path')
            using errcode = 'LG004', hint = 'Whatever calls it must set search_path = pg_catalog, pg_temp.';
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'the ledger is written under READ COMMITTED only; this transaction is %', upper(current_setting('transaction_isolation'))
            using errcode = 'LG004', hint = 'An older snapshot cannot see the last event. Append in a transaction of its own.';
    end if;
    if current_setting('client_encoding') <> 'UTF8' then
        raise exception 'the ledger is written with client_encoding UTF8 only; this session has %', current_setting('client_encoding')
            using errcode = 'LG004', hint = 'set client_encoding to ''UTF8''';
    end if;
    if events is null or jsonb_typeof(events) <> 'array' or jsonb_array_length(events) = 0 then
        raise exception 'append to stream "%" without events: expected a JSON array of at least one object', record.stream
            using errcode = 'LG004';
    end if;

    if pg_advisory_xact_lock(hashtext('comporta'), hashtext('ledger')) is null then  -- void is not null; PERFORM would cost a query
        return null;
    end if;

    -- The common case, one event that goes on as expected: what follows does the same for all cases, at a third more.
    if jsonb_array_length(events) = 1 then
        one := events -> 0;
        one_key := one ->> 'idempotency_key';
        select n, last_id, hash,
               coalesce((select version from comporta.event where stream = record.stream order by version desc limit 1), 0),
               (select id from comporta.event where idempotency_key = one_key)
          into head_n, head_id, head_hash, found_version, one_id
          from comporta.block
         order by n desc
         limit 1;
        if head_n is not null and one_id is null and one ->> 'event_type' <> '' and one ->> 'actor' <> '' and record.stream <> ''
           and coalesce(jsonb_typeof(one -> 'payload'), 'null') in ('object', 'null') and coalesce(expected_version, found_version) = found_version then
            one_id := head_id + 1;
            insert into comporta.event (id, stream, version, feature, event_type, workflow, phase, payload, actor, "timestamp", idempotency_key)
            values (one_id, record.stream, found_version + 1, one ->> 'feature', one ->> 'event_type', one ->> 'workflow', one ->> 'phase',
                    coalesce(nullif(one -> 'payload', 'null'), '{}'), one ->> 'actor', comporta.now(), one_key)
            returning comporta.leaf(event) into one_leaf;
            insert into comporta.block (n, first_id, last_id, leaves, prev_hash, hash)
            values (head_n + 1, one_id, one_id, one_leaf, head_hash, comporta.block_hash(head_n + 1, one_id, one_id, one_leaf, head_hash));
            if pg_notify('comporta_ledger', one_id::text) is null then
                return null;
            end if;
            return array[one_id];
        end if;
    end if;

    -- One statement for what the rest needs: the end of the chain, the end of the stream, and the keys known already.
    select coalesce(head.n, 0), coalesce(head.last_id, 0), coalesce(head.hash, decode(repeat('00', 32), 'hex')),
           coalesce((select version from comporta.event where stream = record.stream order by version desc limit 1), 0),
           array(select (select id from comporta.event where idempotency_key = incoming.event ->> 'idempotency_key')
                   from jsonb_array_elements(events) with ordinality incoming (event, nth)
                  order by nth)
      into head_n, head_id, head_hash, found_version, former
      from (select) as always
      left join (select n, last_id, hash from comporta.block order by n desc limit 1) as head on true;

    if array_remove(former, null) <> '{}' then
        select known.id, known.idempotency_key,
               concat_ws(', ',
                   case when known.stream is distinct from record.stream then 'stream' end,
                   case when known.feature is distinct from incoming.event ->> 'feature' then 'feature' end,
                   case when known.event_type is distinct from incoming.event ->> 'event_type' then 'event_type' end,
                   case when known.workflow is distinct from incoming.event ->> 'workflow' then 'workflow' end,
                   case when known.phase is distinct from incoming.event ->> 'phase' then 'phase' end,
                   case when known.payload is distinct from coalesce(nullif(incoming.event -> 'payload', 'null'), '{}') then 'payload' end,
                   case when known.actor is distinct from incoming.event ->> 'actor' then 'actor' end) as differs
          into conflict
          from jsonb_array_elements(events) with ordinality incoming (event, nth)
          join comporta.event known on known.id = former[nth]
         where (known.stream, known.feature, known.event_type, known.workflow, known.phase, known.payload, known.actor)
               is distinct from
               (record.stream, incoming.event ->> 'feature', incoming.event ->> 'event_type', incoming.event ->> 'workflow',
                incoming.event ->> 'phase', coalesce(nullif(incoming.event -> 'payload', 'null'), '{}'), incoming.event ->> 'actor')
         order by nth
         limit 1;
        if found then
            raise exception 'idempotency key "%" already names event %, which differs in: %', conflict.idempotency_key, conflict.id, conflict.differs
                using errcode = 'LG002',
                      detail = json_build_object('idempotency_key', conflict.idempotency_key, 'id', conflict.id, 'differs', conflict.differs),
                      hint = 'Nothing was written. A new intent needs a new key; a repeated one must be repeated unchanged.';
        end if;
        select coalesce(jsonb_agg(event order by nth), '[]') into fresh
          from jsonb_array_elements(events) with ordinality incoming (event, nth)
         where former[nth] is null;
        if fresh = '[]' then
            return former;
        end if;
    end if;

    if expected_version <> found_version then
        raise exception 'stream "%" is at version %, expected %', record.stream, found_version, expected_version
            using errcode = 'LG001',
                  detail = json_build_object('stream', record.stream, 'expected', expected_version, 'found', found_version),
                  hint = 'Nothing was written. Read the stream again, decide again, append with the version found.';
    end if;

    select nth, case when jsonb_typeof(event) <> 'object' then 'is not an object'
                     when coalesce(event ->> 'event_type', '') = '' then 'has no event_type'
                     when coalesce(event ->> 'actor', '') = '' then 'has no actor'
                     else 'has a payload that is not an object' end as lack
      into conflict
      from jsonb_array_elements(fresh) with ordinality incoming (event, nth)
     where jsonb_typeof(event) <> 'object' or coalesce(event ->> 'event_type', '') = '' or coalesce(event ->> 'actor', '') = ''
        or coalesce(jsonb_typeof(event -> 'payload'), 'null') not in ('object', 'null')
     order by nth
     limit 1;
    if found or coalesce(record.stream, '') = '' then
        raise exception 'event % of the append to stream "%" %', coalesce(conflict.nth, 1), record.stream, coalesce(conflict.lack, 'has no stream')
            using errcode = 'LG004', hint = 'An event has a stream, an event_type and an actor, and its payload is an object.';
    end if;

    recorded := comporta.now();
    with added as (
        insert into comporta.event (id, stream, version, feature, event_type, workflow, phase, payload, actor, "timestamp", idempotency_key)
        select head_id + nth, record.stream, found_version + nth, incoming.feature, incoming.event_type, incoming.workflow,
               incoming.phase, coalesce(incoming.payload, '{}'), incoming.actor, recorded, incoming.idempotency_key
          from rows from (jsonb_to_recordset(fresh) as (
                   feature text, event_type text, workflow text, phase text, payload jsonb, actor text, idempotency_key text))
               with ordinality incoming (feature, event_type, workflow, phase, payload, actor, idempotency_key, nth)
        returning id, comporta.leaf(event) as leaf
    ), whole as (
        select count(*) as size, string_agg(leaf, ''::bytea order by id) as leaves from added
    )
    insert into comporta.block (n, first_id, last_id, leaves, prev_hash, hash)
    select head_n + 1, head_id + 1, head_id + size, leaves, head_hash,
           comporta.block_hash(head_n + 1, head_id + 1, head_id + size, leaves, head_hash)
      from whole
    returning last_id into new_head_id;

    -- Only wakes readers: they pull by id, and poll in case the wake-up is lost.
    perform pg_notify('comporta_ledger', new_head_id::text);

    if new_head_id - head_id = cardinality(former) then
        return array(select generate_series(head_id + 1, new_head_id));
    end if;
    return array(
        select coalesce(former[nth], head_id + count(*) filter (where former[nth] is null) over (order by nth))
          from generate_series(1, cardinality(former)) nth
         order by nth);
end
$$;
comment on function comporta.record(text, integer, jsonb) is
    'The only way into the ledger: appends events to a stream as one block of the chain. Called by functions only: nobody is granted it.';
revoke all on function comporta.record(text, integer, jsonb), comporta.leaf(comporta.event),
    comporta.block_hash(bigint, bigint, bigint, bytea, bytea) from public;

-- Streams that begin with "gate/" or "health/" are written by the functions that guard them: what they hold was checked before.
create function comporta.append(stream text, expected_version integer, events jsonb) returns bigint[]
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    -- Plans are kept while the table grows from nothing: only index scans stay right.
    set enable_seqscan = off
as $$
begin
    if starts_with(stream, 'gate/') then
        raise exception 'stream "%" belongs to a gate and is not written by comporta.append', stream
            using errcode = 'LG005',
                  hint = 'Open, vote, revoke, renew and consume through the functions of the gates; they check first, then record.';
    end if;
    if starts_with(stream, 'health/') then
        raise exception 'stream "%" belongs to breakers and is not written by comporta.append', stream
            using errcode = 'LG005',
                  hint = 'Report, admit, hold and release through the functions of the breakers; they check first, then record.';
    end if;
    return comporta.record(stream, expected_version, events);
end
$$;
comment on function comporta.append(text, integer, jsonb) is
    'Appends events to a stream as one block of the chain; the streams of gates and breakers are refused.';

revoke all on function comporta.append(text, integer, jsonb) from public;
grant usage on schema comporta to comporta_app;
grant select on comporta.event, comporta.block, comporta.migration to comporta_app;
grant execute on function comporta.append(text, integer, jsonb) to comporta_app;

create view comporta.latest_by_type as
select distinct on (stream, event_type)
       stream, event_type, id, version, feature, workflow, phase, payload, actor, "timestamp"
  from comporta.event
 order by stream, event_type, version desc;
comment on view comporta.latest_by_type is 'The last event of each type in each stream.';

create view comporta.current_state as
select distinct on (stream)
       stream, version, id, feature, workflow, event_type, phase, payload, actor, "timestamp"
  from comporta.event
 order by stream, version desc;
comment on view comporta.current_state is 'The last event of each stream: its status, and the version that the next append expects.';

grant select on comporta.latest_by_type, comporta.current_state to comporta_app;
