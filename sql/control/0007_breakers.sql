-- Purpose:     breakers: what stops a rollout on bad health of its target. Three-valued, shared by all processes, every transition an event.
-- Requires:    0003 (comporta.record, comporta.now), 0004 (comporta.utc).
-- Locks:       none on anything that exists.
-- Transaction: yes.
--
-- A breaker is the pair of a release's target and a signal. It is closed until an event says otherwise. Samples are ok, bad or no_data; no
-- data never counts as good. Whoever reports or asks waits for one lock a target, never for the ledger's unless there is something to record.
-- A hold is a person's: it lies over whatever the machine found, for every target of the release, and only a person takes it away.

create table comporta.breaker (
    stream      text not null,
    release     text not null,
    target      text not null,
    breaker     text not null,
    state       text not null,
    since       timestamptz not null,
    opened_at   timestamptz not null,
    reason      text not null,
    evidence    jsonb not null,
    window_from timestamptz,
    last_event  bigint not null,
    primary key (release, target, breaker)
);
comment on table comporta.breaker is 'Where every breaker stands that was ever opened: comporta.breaker_as_of(the last event), kept in the transaction of each event.';
comment on column comporta.breaker.target is 'System identifier of the server and name of the database: a target that was made anew starts without a past.';
comment on column comporta.breaker.state is 'closed, open or half_open. One without a row is closed.';
comment on column comporta.breaker.since is 'When it came into this state; taking over a probe from a process that died is no new state.';
comment on column comporta.breaker.reason is 'Why it was opened the last time; evidence has the numbers.';
comment on column comporta.breaker.window_from is 'Where the window of a closed breaker begins at the earliest: when the probes began that closed it.';

create table comporta.breaker_hold (
    stream     text not null,
    release    text not null,
    breaker    text not null,
    held_by    text not null,
    reason     text not null,
    held_at    timestamptz not null,
    last_event bigint not null,
    primary key (release, breaker, held_by)
);
comment on table comporta.breaker_hold is 'Who holds which breaker open, "all" for every one: comporta.breaker_hold_as_of(the last event).';

-- What was seen. No truth of its own: what came of it are events. Rows are gone after a day or what the release says.
create table comporta.breaker_sample (
    id      bigint generated always as identity primary key,
    release text not null,
    target  text not null,
    breaker text not null,
    at      timestamptz not null,
    verdict text not null check (verdict in ('ok', 'bad', 'no_data')),
    value   double precision,
    bound   double precision,
    runs    integer not null default 0,
    slow    integer not null default 0 check (slow between 0 and runs),
    why     text not null,
    detail  jsonb not null default '{}',
    probe   boolean not null default false,
    holder  text not null
);
create index breaker_sample_window on comporta.breaker_sample (release, target, breaker, at, id);
create index breaker_sample_at on comporta.breaker_sample (at);
comment on table comporta.breaker_sample is 'Samples of the signals, one row for each breaker and look, kept for a while.';
comment on column comporta.breaker_sample.bound is 'The limit in force: above it the value is bad.';
comment on column comporta.breaker_sample.runs is 'Canary runs of this look, and how many of them were slow; 0 for signals without.';
comment on column comporta.breaker_sample.probe is 'True for a probe of a half-open breaker, by the process that was admitted to it.';

-- A lease ends by itself: a process that was killed leaves nothing that anybody would have to clear away.
create table comporta.health_lease (
    release text not null,
    target  text not null,
    purpose text not null,
    holder  text not null,
    until   timestamptz not null,
    primary key (release, target, purpose)
);
comment on table comporta.health_lease is 'Which process samples (purpose "sampling"), and which one probes a breaker (purpose: its name).';

create function comporta.health_lock(release text, target text) returns void
    language sql
    return pg_advisory_xact_lock(hashtext('comporta health'), hashtext(release || ' ' || target));

-- Breakers as they stood after event UPTO. No clause that would keep it from being inlined: a condition on stream then reads that stream alone.
create function comporta.breaker_as_of(upto bigint) returns setof comporta.breaker
    language sql stable
as $$
    select story.stream, story.feature, story.target, story.breaker,
           case story.event_type when 'breaker_opened' then 'open' when 'breaker_probing' then 'half_open' else 'closed' end,
           (story.payload ->> 'since')::timestamptz, (story.opened ->> 'since')::timestamptz,
           story.opened ->> 'reason', story.opened - '{reason,since,target}'::text[],
           (story.payload ->> 'window_from')::timestamptz, story.last_event
      from (select event.stream, event.feature, event.payload ->> 'target' as target, event.phase as breaker,
                   (array_agg(event.event_type order by event.version desc))[1] as event_type,
                   (array_agg(event.payload order by event.version desc))[1] as payload,
                   (array_agg(event.payload order by event.version desc) filter (where event.event_type = 'breaker_opened'))[1] as opened,
                   max(event.id) as last_event
              from comporta.event
             where event.workflow = 'health' and event.stream like 'health/%' and event.id <= upto
               and event.event_type in ('breaker_opened', 'breaker_probing', 'breaker_closed')
             group by event.stream, event.feature, event.payload ->> 'target', event.phase) as story
$$;
comment on function comporta.breaker_as_of(bigint) is 'Where every breaker stood after an event of that id; comporta.breaker is this for the last one.';

create function comporta.breaker_hold_as_of(upto bigint) returns setof comporta.breaker_hold
    language sql stable
as $$
    select last.stream, last.feature, last.phase, last.held_by, last.payload ->> 'reason', (last.payload ->> 'since')::timestamptz, last.id
      from (select distinct on (event.stream, event.feature, event.phase, coalesce(event.payload ->> 'held_by', event.actor))
                   event.stream, event.feature, event.phase, coalesce(event.payload ->> 'held_by', event.actor) as held_by,
                   event.event_type, event.payload, event.id
              from comporta.event
             where event.workflow = 'health' and event.stream like 'health/%' and event.id <= upto
               and event.event_type in ('breaker_held', 'breaker_released')
             order by event.stream, event.feature, event.phase, coalesce(event.payload ->> 'held_by', event.actor), event.version desc) as last
     where last.event_type = 'breaker_held'
$$;
comment on function comporta.breaker_hold_as_of(bigint) is 'Which breakers people held after an event of that id; comporta.breaker_hold is this for the last one.';

create function comporta.health_event(release text, event_type text, phase text, actor text, payload jsonb) returns jsonb
    language sql immutable
as $$
    select jsonb_build_object('event_type', event_type, 'feature', release, 'workflow', 'health', 'phase', phase, 'actor', actor, 'payload', payload)
$$;

-- Records a transition and brings the projection up to date. The caller holds comporta.health_lock and has read the breaker under it.
create function comporta.breaker_record(release text, target text, breaker text, event_type text, actor text, payload jsonb) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    -- Plans are kept while the table grows from nothing: only index scans stay right.
    set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    perform comporta.record('health/' || breaker_record.release, null, jsonb_build_array(comporta.health_event(
        breaker_record.release, breaker_record.event_type, breaker_record.breaker, breaker_record.actor,
        breaker_record.payload || jsonb_build_object('target', breaker_record.target))));
    delete from comporta.breaker
     where release = breaker_record.release and target = breaker_record.target and breaker = breaker_record.breaker;
    insert into comporta.breaker
    select * from comporta.breaker_as_of(9223372036854775807) folded
     where folded.stream = 'health/' || breaker_record.release and folded.release = breaker_record.release
       and folded.target = breaker_record.target and folded.breaker = breaker_record.breaker;
end
$$;

-- Takes a lease, or extends it for the one who has it. False while another process has it. The caller holds comporta.health_lock.
create function comporta.health_take(release text, target text, purpose text, holder text, lease_s double precision) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    moment timestamptz;
begin
    moment := comporta.now();
    insert into comporta.health_lease as held (release, target, purpose, holder, until)
    values (health_take.release, health_take.target, health_take.purpose, health_take.holder, moment + make_interval(secs => lease_s))
    on conflict (release, target, purpose) do update set holder = excluded.holder, until = excluded.until
     where held.holder = excluded.holder or held.until <= moment;
    return found;
end
$$;

-- Asks to be the one process that samples a target for a release, for LEASE_S seconds from now; False while another one is.
create function comporta.health_sampler(release text, target text, holder text, lease_s double precision) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform comporta.health_lock(release, target);
    return comporta.health_take(release, target, 'sampling', holder, lease_s);
end
$$;

create function comporta.health_sampler_ends(release text, target text, holder text) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    delete from comporta.health_lease
     where release = health_sampler_ends.release and target = health_sampler_ends.target and purpose = 'sampling'
       and holder = health_sampler_ends.holder;
    return found;
end
$$;

-- What the samples since the window began add up to. The moment is given: a clock that is asked for each row keeps an index from being used.
create function comporta.breaker_window(release text, target text, breaker text, moment timestamptz, window_s double precision,
                                        window_from timestamptz)
    returns table (n bigint, bad bigint, no_data bigint, runs bigint, slow bigint)
    language sql stable
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
as $$
    select count(*) filter (where sample.verdict <> 'no_data'), count(*) filter (where sample.verdict = 'bad'),
           count(*) filter (where sample.verdict = 'no_data'), coalesce(sum(sample.runs), 0), coalesce(sum(sample.slow), 0)
      from comporta.breaker_sample sample
     where sample.release = breaker_window.release and sample.target = breaker_window.target and sample.breaker = breaker_window.breaker
       and sample.at > moment - make_interval(secs => window_s)
       and sample.at >= coalesce(breaker_window.window_from, '-infinity')
$$;

-- Reports one look at the target: a sample for each breaker, and what comes of them. SAMPLES: breaker, verdict, value, bound, runs, slow,
-- why, detail, probe. PLAN: window_s, min_samples, bad_rate, slow_rate, probes, keep_s, lease_s.
--
-- Samples are taken from the process that has the lease to sample, which is extended, and were it over while nobody else took it; a probe
-- from the one that was admitted to it, in time. What anybody else sends is not taken. Returns {"sampling": bool, "taken": [breakers], "changed": [{breaker, state, reason}]}.
create function comporta.health_report(release text, target text, holder text, samples jsonb, plan jsonb) returns jsonb
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    -- Plans are kept while the table grows from nothing: only index scans stay right.
    set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    moment       timestamptz;
    sampling boolean;
    sample   record;
    b        comporta.breaker;
    now_is   text;
    probing  boolean;
    seen     record;
    good     bigint;
    reason   text;
    taken    jsonb := '[]';
    changed  jsonb := '[]';
begin
    perform comporta.health_lock(health_report.release, health_report.target);
    moment := comporta.now();
    update comporta.health_lease set until = moment + make_interval(secs => (plan ->> 'lease_s')::double precision)
     where release = health_report.release and target = health_report.target and purpose = 'sampling' and holder = health_report.holder;
    sampling := found;
    for sample in
        select * from jsonb_to_recordset(samples) as one (
            breaker text, verdict text, value double precision, bound double precision, runs integer, slow integer,
            why text, detail jsonb, probe boolean)
    loop
        select * into b from comporta.breaker
         where release = health_report.release and target = health_report.target and breaker = sample.breaker;
        now_is := coalesce(b.state, 'closed');
        probing := false;
        if sample.probe and now_is = 'half_open' then
            delete from comporta.health_lease
             where release = health_report.release and target = health_report.target and purpose = sample.breaker
               and holder = health_report.holder and until > moment;
            probing := found;
        end if;
        continue when not sampling and not probing;
        insert into comporta.breaker_sample (release, target, breaker, at, verdict, value, bound, runs, slow, why, detail, probe, holder)
        values (health_report.release, health_report.target, sample.breaker, moment, sample.verdict, sample.value, sample.bound,
                coalesce(sample.runs, 0), coalesce(sample.slow, 0), coalesce(sample.why, ''), coalesce(sample.detail, '{}'), probing,
                health_report.holder);
        taken := taken || to_jsonb(sample.breaker);
        select * into seen from comporta.breaker_window(
            health_report.release, health_report.target, sample.breaker, moment, (plan ->> 'window_s')::double precision,
            case now_is when 'half_open' then b.since else b.window_from end);
        reason := null;
        if now_is = 'half_open' and sample.verdict = 'bad' then
            reason := format('bad while it was half-open: %s', sample.why);
        elsif now_is = 'closed' and seen.n >= (plan ->> 'min_samples')::bigint then
            if seen.bad >= (plan ->> 'bad_rate')::double precision * seen.n then
                reason := format('%s of %s samples were bad, the last: %s', seen.bad, seen.n, (
                    select worst.why from comporta.breaker_sample worst
                     where worst.release = health_report.release and worst.target = health_report.target
                       and worst.breaker = sample.breaker and worst.verdict = 'bad'
                     order by worst.at desc, worst.id desc limit 1));
            elsif seen.runs > 0 and seen.slow >= (plan ->> 'slow_rate')::double precision * seen.runs then
                reason := format('%s of %s canary runs were slow', seen.slow, seen.runs);
            end if;
        end if;
        if reason is not null then
            perform comporta.breaker_record(health_report.release, health_report.target, sample.breaker, 'breaker_opened', health_report.holder,
                jsonb_build_object('since', comporta.utc(moment), 'reason', reason, 'window', to_jsonb(seen), 'last', sample.value,
                                   'limit', sample.bound));
            delete from comporta.health_lease
             where release = health_report.release and target = health_report.target and purpose = sample.breaker;
            changed := changed || jsonb_build_object('breaker', sample.breaker, 'state', 'open', 'reason', reason);
        elsif probing and sample.verdict = 'ok' then
            -- Good ones in a row since the first probe, this one included; a probe without data breaks the row.
            select count(*) into good
              from comporta.breaker_sample one
             where one.release = health_report.release and one.target = health_report.target and one.breaker = sample.breaker
               and one.probe and one.verdict = 'ok' and one.at >= b.since
               and one.id > coalesce((select max(last.id) from comporta.breaker_sample last
                                       where last.release = health_report.release and last.target = health_report.target
                                         and last.breaker = sample.breaker and last.at >= b.since
                                         and last.probe and last.verdict <> 'ok'), 0);
            if good >= (plan ->> 'probes')::bigint then
                perform comporta.breaker_record(health_report.release, health_report.target, sample.breaker, 'breaker_closed',
                    health_report.holder, jsonb_build_object('since', comporta.utc(moment), 'window_from', comporta.utc(b.since),
                                                             'by', health_report.holder, 'probes', good));
                changed := changed || jsonb_build_object('breaker', sample.breaker, 'state', 'closed', 'reason', format('%s good probes', good));
            end if;
        end if;
    end loop;
    delete from comporta.breaker_sample
     where id in (select old.id from comporta.breaker_sample old
                   where old.at < moment - make_interval(secs => (plan ->> 'keep_s')::double precision)
                   order by old.at limit 1000);
    return jsonb_build_object('sampling', sampling, 'taken', taken, 'changed', changed);
end
$$;
comment on function comporta.health_report(text, text, text, jsonb, jsonb) is 'Reports one look at a target; opens and closes breakers.';

-- Asks to probe a breaker. True for exactly one process at a time, for LEASE_S seconds: then, if it has not reported, somebody else may.
-- An open breaker is half-open from the first probe on that is admitted OPEN_S after it opened.
create function comporta.breaker_admit(release text, target text, breaker text, holder text, open_s double precision, lease_s double precision)
    returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    moment     timestamptz;
    b      comporta.breaker;
    former comporta.health_lease;
begin
    perform comporta.health_lock(breaker_admit.release, breaker_admit.target);
    moment := comporta.now();
    select * into b from comporta.breaker
     where release = breaker_admit.release and target = breaker_admit.target and breaker = breaker_admit.breaker;
    if not found or b.state = 'closed' or (b.state = 'open' and moment < b.since + make_interval(secs => open_s)) then
        return false;
    end if;
    select * into former from comporta.health_lease
     where release = breaker_admit.release and target = breaker_admit.target and purpose = breaker_admit.breaker;
    if not comporta.health_take(breaker_admit.release, breaker_admit.target, breaker_admit.breaker, breaker_admit.holder, lease_s) then
        return false;
    end if;
    if b.state = 'open' or former.holder <> breaker_admit.holder then
        perform comporta.breaker_record(breaker_admit.release, breaker_admit.target, breaker_admit.breaker, 'breaker_probing', breaker_admit.holder,
            jsonb_build_object('by', breaker_admit.holder, 'since', comporta.utc(case b.state when 'open' then moment else b.since end),
                               'instead_of', case b.state when 'half_open' then former.holder end));
    end if;
    return true;
end
$$;

-- Appends to the holds of a release and brings the projection up to date. The caller holds the ledger's lock.
create function comporta.breaker_hold_record(release text, events jsonb) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    perform comporta.record('health/' || breaker_hold_record.release, null, events);
    delete from comporta.breaker_hold where release = breaker_hold_record.release;
    insert into comporta.breaker_hold
    select * from comporta.breaker_hold_as_of(9223372036854775807) folded where folded.stream = 'health/' || breaker_hold_record.release;
end
$$;

-- A person holds a breaker open, "all" for every one of the release. Several may; each hold is its own.
create function comporta.breaker_hold(release text, breaker text, actor text, reason text) returns void
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if coalesce(btrim(reason), '') = '' or coalesce(btrim(actor), '') = '' then
        raise exception 'holding a breaker open needs a person and a reason' using errcode = 'LG021', hint = 'Say why, in a few words.';
    end if;
    perform comporta.gate_lock();
    perform comporta.breaker_hold_record(breaker_hold.release, jsonb_build_array(comporta.health_event(
        breaker_hold.release, 'breaker_held', breaker_hold.breaker, breaker_hold.actor,
        jsonb_build_object('reason', breaker_hold.reason, 'since', comporta.utc(comporta.now())))));
end
$$;

-- A person takes away every hold on a breaker, or on "all"; returns whose they were.
create function comporta.breaker_release(release text, breaker text, actor text, reason text) returns text[]
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    held text[];
begin
    if coalesce(btrim(reason), '') = '' or coalesce(btrim(actor), '') = '' then
        raise exception 'releasing a breaker needs a person and a reason' using errcode = 'LG021', hint = 'Say why, in a few words.';
    end if;
    perform comporta.gate_lock();
    held := array(select held_by from comporta.breaker_hold
                   where release = breaker_release.release and breaker = breaker_release.breaker order by held_at, held_by);
    if held = '{}' then
        raise exception 'nobody holds % of release %', case breaker_release.breaker when 'all' then 'all breakers' else 'breaker ' || breaker_release.breaker end,
                breaker_release.release
            using errcode = 'LG022', hint = 'Nothing was released: `comporta health status` shows what is held, and by whom.';
    end if;
    perform comporta.breaker_hold_record(breaker_release.release, (
        select jsonb_agg(comporta.health_event(breaker_release.release, 'breaker_released', breaker_release.breaker, breaker_release.actor,
                   jsonb_build_object('reason', breaker_release.reason, 'held_by', who, 'since', comporta.utc(comporta.now()))) order by nth)
          from unnest(held) with ordinality as one (who, nth)));
    return held;
end
$$;

-- Records a baseline: what limits are relative to from now on.
create function comporta.health_baseline(release text, actor text, payload jsonb) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
as $$
declare
    ids bigint[];
begin
    ids := comporta.record('health/' || release, null, jsonb_build_array(comporta.health_event(
        release, 'health_baseline_taken', 'baseline', actor, payload)));
    return ids[1];
end
$$;

-- The streams of breakers, too, are written by the functions above: what is folded from them is what those functions found.
create or replace function comporta.append(stream text, expected_version integer, events jsonb) returns bigint[]
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

revoke all on function comporta.health_sampler(text, text, text, double precision), comporta.health_sampler_ends(text, text, text),
    comporta.health_report(text, text, text, jsonb, jsonb),
    comporta.breaker_admit(text, text, text, text, double precision, double precision),
    comporta.breaker_hold(text, text, text, text), comporta.breaker_release(text, text, text, text),
    comporta.health_baseline(text, text, jsonb) from public;
grant execute on function comporta.health_sampler(text, text, text, double precision), comporta.health_sampler_ends(text, text, text),
    comporta.health_report(text, text, text, jsonb, jsonb),
    comporta.breaker_admit(text, text, text, text, double precision, double precision),
    comporta.breaker_hold(text, text, text, text), comporta.breaker_release(text, text, text, text),
    comporta.health_baseline(text, text, jsonb) to comporta_app;
grant select on comporta.breaker, comporta.breaker_hold, comporta.breaker_sample, comporta.health_lease to comporta_app;
