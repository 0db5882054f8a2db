-- Purpose:     gates: a named question put to people with evidence. The policy is enforced here, where the vote is recorded, so that
--              page, REST, command line and Required Actions give the same answer.
-- Requires:    0003 (comporta.record, comporta.now).
-- Locks:       none on anything that exists.
-- Transaction: yes.
--
-- A gate is a stream "gate/<key>" of the ledger. Every function takes the ledger's lock first, reads the gate, decides, records: no two
-- of them see the same moment. A person's name is given by the caller, who has seen the sign-in; comporta_app is trusted with that and
-- with nothing else: it can neither append to these streams itself nor write the tables below.

create table comporta.gate (
    gate            bigint primary key,
    stream          text not null unique,
    name            text not null,
    kind            text not null,
    question        text not null,
    feature         text not null,
    asker           text not null,
    asked_by        jsonb not null,
    policy          jsonb not null,
    opened_at       timestamptz not null,
    deadline        timestamptz not null,
    holds_for_s     bigint not null,
    remind_after_s  bigint[] not null,
    reminded        bigint not null,
    evidence        jsonb not null,
    evidence_digest text not null,
    blockers        jsonb not null,
    revision        bigint not null,
    changes         jsonb not null,
    votes           jsonb not null,
    state           text not null,
    decision        jsonb,
    valid_until     timestamptz,
    consumed_by     text,
    consumed_at     timestamptz,
    version         integer not null,
    last_event      bigint not null,
    digest          text not null
);
comment on table comporta.gate is 'Where every gate stands: comporta.gate_as_of(the last event), kept in the transaction of each event.';
comment on column comporta.gate.gate is 'The id of the event that opened it. Decisions refer to it, so a gate that is asked again needs a new answer.';
comment on column comporta.gate.votes is 'Votes that stand: the last of each person since the evidence last changed, unless revoked.';
comment on column comporta.gate.digest is 'What a vote refers to: question, evidence, blockers, policy and deadline of this gate.';
comment on column comporta.gate.changes is 'What the last change of the evidence changed, in words.';
create index gate_asker on comporta.gate (asker);
create index gate_state on comporta.gate (state, gate);

-- What is compared when evidence may have changed: the digests by name, and what blocks. Titles and links may be worded anew.
create function comporta.evidence_digest(evidence jsonb, blockers jsonb) returns text
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select encode(sha256(convert_to(
        coalesce((select string_agg((item ->> 'name') || ' ' || (item ->> 'digest') || E'\n', '' order by item ->> 'name' collate "C")
                    from jsonb_array_elements(evidence) item), '')
        || coalesce((select string_agg('! ' || blocker || E'\n', '' order by blocker collate "C")
                       from jsonb_array_elements_text(blockers) blocker), ''), 'UTF8')), 'hex')
$$;

create function comporta.gate_digest(gate bigint, question text, evidence_digest text, policy jsonb, deadline text) returns text
    language sql immutable
as $$
    select encode(sha256(convert_to(jsonb_build_array(gate, question, evidence_digest, policy, deadline)::text, 'UTF8')), 'hex')
$$;

-- Gates as they stood after event UPTO, folded from the events in one pass. No clause that would keep it from being inlined: a condition on
-- stream then reads that stream alone.
create function comporta.gate_as_of(upto bigint) returns setof comporta.gate
    language sql stable
as $$
    select whole.gate, whole.stream, whole.name, whole.opened ->> 'kind', whole.opened ->> 'question', whole.feature,
           whole.opened ->> 'asker', whole.opened -> 'asked_by', whole.opened -> 'policy',
           (whole.opened ->> 'opened_at')::timestamptz, (whole.opened ->> 'deadline')::timestamptz,
           (whole.opened ->> 'holds_for_s')::bigint,
           array(select after::bigint from jsonb_array_elements_text(whole.opened -> 'remind_after_s') after),
           whole.reminded, whole.seen -> 'evidence', whole.seen ->> 'evidence_digest', whole.seen -> 'blockers', whole.revision,
           coalesce(whole.seen -> 'changes', '[]'), coalesce(standing.votes, '[]'),
           case whole.status_type when 'gate_decided' then whole.status ->> 'decision' when 'gate_expired' then 'expired'
                when 'gate_withdrawn' then 'withdrawn' else 'open' end,
           case whole.status_type when 'gate_decided' then whole.status - 'valid_until' end,
           case whole.status_type when 'gate_decided' then (whole.status ->> 'valid_until')::timestamptz end,
           whole.consumed ->> 'consumer', (whole.consumed ->> 'at')::timestamptz,
           whole.version, whole.last_event,
           comporta.gate_digest(whole.gate, whole.opened ->> 'question', whole.seen ->> 'evidence_digest',
                                whole.opened -> 'policy', whole.opened ->> 'deadline')
      from (select event.stream, min(event.phase) as name, min(event.feature) as feature,
                   min(event.id) filter (where event.event_type = 'gate_opened') as gate,
                   (array_agg(event.payload) filter (where event.event_type = 'gate_opened'))[1] as opened,
                   (array_agg(event.payload order by event.version desc)
                       filter (where event.event_type in ('gate_opened', 'gate_evidence_changed')))[1] as seen,
                   max(event.version) filter (where event.event_type in ('gate_opened', 'gate_evidence_changed')) as seen_version,
                   1 + count(*) filter (where event.event_type = 'gate_evidence_changed') as revision,
                   count(*) filter (where event.event_type = 'gate_reminded') as reminded,
                   (array_agg(event.event_type order by event.version desc) filter (where event.event_type in
                       ('gate_opened', 'gate_evidence_changed', 'gate_reopened', 'gate_decided', 'gate_expired', 'gate_withdrawn')))[1] as status_type,
                   (array_agg(event.payload order by event.version desc) filter (where event.event_type in
                       ('gate_opened', 'gate_evidence_changed', 'gate_reopened', 'gate_decided', 'gate_expired', 'gate_withdrawn')))[1] as status,
                   (array_agg(event.payload) filter (where event.event_type = 'gate_consumed'))[1] as consumed,
                   max(event.version) as version, max(event.id) as last_event
              from comporta.event
             where event.workflow = 'gate' and event.stream like 'gate/%' and event.id <= upto
             group by event.stream) as whole
      left join lateral (
            select jsonb_agg(jsonb_build_object('actor', last.actor, 'decision', last.payload -> 'decision', 'reason', last.payload -> 'reason',
                                                'at', last.payload -> 'at', 'via', last.payload -> 'via') order by last.version) as votes
              from (select distinct on (event.actor) event.actor, event.event_type, event.payload, event.version
                      from comporta.event
                     where event.stream = whole.stream and event.workflow = 'gate' and event.id <= upto
                       and event.event_type in ('gate_vote_cast', 'gate_vote_revoked')
                     order by event.actor, event.version desc) as last
             where last.event_type = 'gate_vote_cast' and last.version > whole.seen_version) as standing on true
     where whole.gate is not null
$$;
comment on function comporta.gate_as_of(bigint) is 'Where every gate stood after an event of that id; comporta.gate is this for the last one.';

-- Who fills which role: a maximum matching, since first come, first served can leave a role empty that a better choice would fill.
-- One element for each place, in the order of NEEDS with COUNT places a role: the voter, or null. VOTERS are distinct.
-- Kuhn's algorithm: each voter looks, breadth first, for a free place along places whose voters could move on.
create function comporta.match_votes(needs jsonb, holders jsonb, voters text[]) returns text[]
    language plpgsql immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    places  text[];
    matched text[];
    reached integer[];
    queue   integer[];
    voter   text;
    mover   text;
    source  integer;
    place   integer;
    free    integer;
begin
    select array_agg(need ->> 'role' order by nth, copy) into places
      from jsonb_array_elements(needs) with ordinality listed (need, nth), generate_series(1, (need ->> 'count')::integer) copy;
    matched := array_fill(null::text, array[cardinality(places)]);
    foreach voter in array voters loop
        reached := array_fill(null::integer, array[cardinality(places)]);
        queue := '{0}';  -- 0 is the new voter, a place stands for the voter who has it
        free := null;
        while free is null and cardinality(queue) > 0 loop
            source := queue[1];
            queue := queue[2:];
            mover := case source when 0 then voter else matched[source] end;
            for place in 1 .. cardinality(places) loop
                continue when reached[place] is not null or not coalesce(holders -> places[place], '[]') ? mover;
                reached[place] := source;
                if matched[place] is null then
                    free := place;
                    exit;
                end if;
                queue := queue || place;
            end loop;
        end loop;
        while free is not null loop
            source := reached[free];
            if source = 0 then
                matched[free] := voter;
                exit;
            end if;
            matched[free] := matched[source];
            free := source;
        end loop;
    end loop;
    return matched;
end
$$;

-- Who said Go, in the order of their votes.
create function comporta.in_favour(votes jsonb) returns text[]
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select array(select standing ->> 'actor' from jsonb_array_elements(votes) with ordinality cast_so_far (standing, nth)
                  where standing ->> 'decision' = 'go' order by nth)
$$;

create function comporta.gate_lock() returns void
    language sql
as $$
    select pg_advisory_xact_lock(hashtext('comporta'), hashtext('ledger'))
$$;

-- One form at rest, whatever the session's time zone.
create function comporta.utc(moment timestamptz) returns text
    language sql immutable
as $$
    select to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
$$;

-- Appends to a gate's stream and brings the projection up to date. The caller holds the lock and has read GATE_VERSION under it.
create function comporta.gate_record(gate_stream text, gate_version integer, events jsonb) returns bigint
    language plpgsql
    set search_path = pg_catalog, pg_temp
    -- Plans are kept while the table grows from nothing: only index scans stay right.
    set enable_seqscan = off
as $$
declare
    ids bigint[];
begin
    ids := comporta.record(gate_stream, gate_version, events);
    delete from comporta.gate where stream = gate_stream;
    insert into comporta.gate select * from comporta.gate_as_of(9223372036854775807) folded where folded.stream = gate_stream;
    return ids[1];
end
$$;

create function comporta.gate_event(g comporta.gate, event_type text, actor text, payload jsonb) returns jsonb
    language sql immutable
as $$
    select jsonb_build_object('event_type', event_type, 'feature', g.feature, 'workflow', 'gate', 'phase', g.name, 'actor', actor,
                              'payload', payload || jsonb_build_object('gate', g.gate))
$$;

-- Puts a question. REQUEST: name, kind, question, feature, asker, asked_by, policy {needs, holders, excluded}, evidence, blockers,
-- answer_within_s, holds_for_s, remind_after_s. The same key again is the same gate; an unconsumed older gate of the same asker is withdrawn.
create function comporta.gate_open(key text, request jsonb, actor text) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    opened   bigint;
    at       timestamptz;
    older    comporta.gate;
    places   text[];
    eligible text[];
begin
    perform comporta.gate_lock();
    select id into opened from comporta.event where stream = 'gate/' || key and version = 1;
    if found then
        return opened;
    end if;
    select array_agg(distinct holder) into eligible
      from jsonb_each(request #> '{policy,holders}') role (name, people), jsonb_array_elements_text(role.people) holder
     where not (request #> '{policy,excluded}') ? holder;
    places := comporta.match_votes(request #> '{policy,needs}', request #> '{policy,holders}', coalesce(eligible, '{}'));
    if array_position(places, null) is not null then
        raise exception 'gate "%" could never open: of % places to fill, those who hold the roles and may decide fill %',
                request ->> 'name', cardinality(places), cardinality(array_remove(places, null))
            using errcode = 'LG011',
                  hint = 'Nothing was asked. Give the roles to more people in the gates file, or let somebody else start the run.';
    end if;
    at := comporta.now();
    for older in select * from comporta.gate
                  where asker = request ->> 'asker' and state in ('open', 'go', 'no_go') and consumed_by is null
    loop
        perform comporta.gate_record(older.stream, older.version, jsonb_build_array(
            comporta.gate_event(older, 'gate_withdrawn', actor, jsonb_build_object('at', comporta.utc(at), 'why', 'asked again'))));
    end loop;
    return comporta.gate_record('gate/' || key, 0, jsonb_build_array(jsonb_build_object(
        'event_type', 'gate_opened', 'feature', request ->> 'feature', 'workflow', 'gate', 'phase', request ->> 'name', 'actor', actor,
        'payload', (request - '{answer_within_s,feature,name}'::text[]) || jsonb_build_object(
            'opened_at', comporta.utc(at),
            'deadline', comporta.utc(at + make_interval(secs => (request ->> 'answer_within_s')::double precision)),
            'evidence_digest', comporta.evidence_digest(request -> 'evidence', request -> 'blockers')))));
end
$$;

-- Why this vote cannot be cast, as {code, why, remedy}; null when it can.
create function comporta.gate_refusal(g comporta.gate, decision text, actor text, reason text, seen text, at timestamptz) returns jsonb
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('gate', g.gate, 'code', code, 'why', why, 'remedy', remedy)
      from (values
        (1, g.state = 'expired' or (g.state = 'open' and at >= g.deadline), 'expired',
            'the time to answer was over at ' || comporta.utc(g.deadline), 'Clear the gate in Airflow: it asks again.'),
        (2, g.state = 'withdrawn', 'closed', 'the gate was asked again since', 'Answer the newer gate.'),
        (3, g.state in ('go', 'no_go'), 'closed',
            format('already decided: %s by %s', case g.state when 'go' then 'Go' else 'No-Go' end, g.decision ->> 'by'),
            'Nothing is left to decide; a voter may revoke until the decision is used.'),
        (4, g.policy -> 'excluded' ? actor, 'excluded',
            format('%s may not decide this gate: %s', actor, g.policy -> 'excluded' ->> actor), 'Somebody else who holds the role decides.'),
        (5, not exists (select from jsonb_each(g.policy -> 'holders') role (name, people) where role.people ? actor), 'no_role',
            format('%s holds none of the roles that decide this gate (%s)', actor,
                   (select string_agg(need ->> 'role', ', ' order by nth) from jsonb_array_elements(g.policy -> 'needs') with ordinality n (need, nth))),
            'Ask one who holds a role, or change the gates file and let the gate ask again.'),
        (6, seen is distinct from g.digest, 'evidence_changed',
            'what was shown is not what the gate is about now' || coalesce(': ' || nullif((select string_agg(change, '; ') from jsonb_array_elements_text(g.changes) change), ''), ''),
            'Look at it again, then decide.'),
        (7, coalesce(btrim(reason), '') = '', 'reason_missing', 'a decision needs a reason', 'Say why, in a few words.'),
        (8, decision = 'go' and g.blockers <> '[]', 'blocked',
            'a blocker stands: ' || (select string_agg(blocker, '; ') from jsonb_array_elements_text(g.blockers) blocker),
            'Remove the blocker; the gate sees it by itself. A No-Go is possible.')
      ) as rule (nth, broken, code, why, remedy)
     where broken
     order by nth
     limit 1
$$;

-- Casts one person's vote on each chosen gate. CHOICES and SHOWN are arrays of {gate, digest}: what is decided, and the whole list as it was
-- drawn, of which LIST_DIGEST is sha256 over "gate:digest\n". ATOMIC: all or none. Returns {batch, decided: [gate], refused: [{gate, code, why, remedy}]}.
-- A refused vote on a gate that exists is recorded, too.
create function comporta.gate_decide(
    choices jsonb, decision text, actor text, reason text, via text, shown jsonb, list_digest text, atomic boolean) returns jsonb
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    at      timestamptz;
    batch   text := gen_random_uuid()::text;
    g       comporta.gate;
    choice  jsonb;
    refusal jsonb;
    refused jsonb := '[]';
    able    bigint[] := '{}';
    decided bigint[] := '{}';
    list    jsonb;
    vote    jsonb;
    places  text[];
    events  jsonb;
    chosen_gate bigint;
begin
    if decision is null or decision not in ('go', 'no_go') then
        raise exception 'decision "%" is unknown: expected go or no_go', decision using errcode = 'LG010';
    end if;
    if coalesce(actor, '') = '' then
        raise exception 'a vote needs the name of the person who casts it' using errcode = 'LG010';
    end if;
    perform comporta.gate_lock();
    at := comporta.now();
    if list_digest is distinct from encode(sha256(convert_to(coalesce(
            (select string_agg(format(E'%s:%s\n', item ->> 'gate', item ->> 'digest'), '' order by nth)
               from jsonb_array_elements(shown) with ordinality drawn (item, nth)), ''), 'UTF8')), 'hex')
       or exists (select from jsonb_array_elements(choices) chosen
                   where not shown @> jsonb_build_array(jsonb_build_object('gate', chosen -> 'gate', 'digest', chosen -> 'digest'))) then
        return jsonb_build_object('batch', batch, 'decided', '[]'::jsonb, 'refused', '[]'::jsonb, 'list_refused', jsonb_build_object(
            'gate', null, 'code', 'list_changed', 'why', 'the list that was decided on is not the list that was shown',
            'remedy', 'Draw the list again, then decide.'));
    end if;
    list := jsonb_build_object('batch', batch, 'list_digest', list_digest, 'shown', jsonb_array_length(shown));

    for choice in select chosen from jsonb_array_elements(choices) chosen loop
        select * into g from comporta.gate where gate = (choice ->> 'gate')::bigint;
        if not found then
            refused := refused || jsonb_build_array(jsonb_build_object('gate', choice -> 'gate', 'code', 'unknown_gate',
                'why', format('there is no gate %s', choice ->> 'gate'), 'remedy', 'List the gates again.'));
            continue;
        end if;
        refusal := comporta.gate_refusal(g, decision, actor, reason, choice ->> 'digest', at);
        if refusal is null then
            able := array_append(array_remove(able, g.gate), g.gate);
        else
            refused := refused || jsonb_build_array(refusal);
        end if;
    end loop;
    if atomic and refused <> '[]' then
        refused := refused || coalesce((select jsonb_agg(jsonb_build_object('gate', other, 'code', 'atomic',
                'why', 'another gate of the list was refused, and all or none was asked for', 'remedy', 'Decide the others without it.'))
              from unnest(able) other), '[]');
        able := '{}';
    end if;

    for choice in select item from jsonb_array_elements(refused) item where item ->> 'code' not in ('unknown_gate', 'atomic') loop
        select * into g from comporta.gate where gate = (choice ->> 'gate')::bigint;
        perform comporta.gate_record(g.stream, g.version, jsonb_build_array(comporta.gate_event(g, 'gate_vote_refused', actor,
            list || jsonb_build_object('decision', decision, 'reason', reason, 'via', via, 'at', comporta.utc(at),
                                       'code', choice -> 'code', 'why', choice -> 'why'))));
    end loop;

    foreach chosen_gate in array able loop
        select * into g from comporta.gate where gate = chosen_gate;
        vote := list || jsonb_build_object('decision', decision, 'reason', reason, 'via', via, 'at', comporta.utc(at),
                                           'digest', g.digest, 'evidence_digest', g.evidence_digest);
        events := jsonb_build_array(comporta.gate_event(g, 'gate_vote_cast', actor, vote));
        if decision = 'no_go' then
            events := events || jsonb_build_array(comporta.gate_event(g, 'gate_decided', actor, jsonb_build_object(
                'decision', 'no_go', 'by', jsonb_build_array(actor), 'reason', reason, 'at', comporta.utc(at),
                'evidence_digest', g.evidence_digest)));
        else
            places := comporta.match_votes(g.policy -> 'needs', g.policy -> 'holders',
                                           array_remove(comporta.in_favour(g.votes), actor) || actor);
            if array_position(places, null) is null then
                events := events || jsonb_build_array(comporta.gate_event(g, 'gate_decided', actor, jsonb_build_object(
                    'decision', 'go', 'by', to_jsonb(places), 'reason', reason, 'at', comporta.utc(at),
                    'valid_until', comporta.utc(at + make_interval(secs => g.holds_for_s)), 'evidence_digest', g.evidence_digest)));
            end if;
        end if;
        perform comporta.gate_record(g.stream, g.version, events);
        decided := decided || g.gate;
    end loop;
    return jsonb_build_object('batch', batch, 'decided', to_jsonb(decided), 'refused', refused);
end
$$;

-- Takes one's own vote back while nobody has acted on the decision. Returns null, or why not.
create function comporta.gate_revoke(gate_id bigint, actor text, reason text, via text) returns jsonb
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    g      comporta.gate;
    at     timestamptz;
    places text[];
    events jsonb;
begin
    perform comporta.gate_lock();
    at := comporta.now();
    select * into g from comporta.gate where gate = gate_id;
    if not found then
        return jsonb_build_object('gate', gate_id, 'code', 'unknown_gate', 'why', format('there is no gate %s', gate_id), 'remedy', 'List the gates again.');
    end if;
    if g.consumed_by is not null then
        return jsonb_build_object('gate', gate_id, 'code', 'consumed', 'why', 'the decision was acted on at ' || comporta.utc(g.consumed_at),
            'remedy', 'What it let through is stopped or rolled back in its own run.');
    end if;
    if g.state in ('expired', 'withdrawn') then
        return jsonb_build_object('gate', gate_id, 'code', 'closed', 'why', 'the gate is ' || g.state, 'remedy', 'Nothing stands that could be revoked.');
    end if;
    if not g.votes @> jsonb_build_array(jsonb_build_object('actor', actor)) then
        return jsonb_build_object('gate', gate_id, 'code', 'no_vote', 'why', actor || ' has no vote on this gate that stands',
            'remedy', 'Only one''s own vote can be revoked; a No-Go by somebody who holds a role stops an open gate.');
    end if;
    if coalesce(btrim(reason), '') = '' then
        return jsonb_build_object('gate', gate_id, 'code', 'reason_missing', 'why', 'revoking needs a reason', 'remedy', 'Say why, in a few words.');
    end if;
    events := jsonb_build_array(comporta.gate_event(g, 'gate_vote_revoked', actor,
        jsonb_build_object('reason', reason, 'via', via, 'at', comporta.utc(at))));
    places := comporta.match_votes(g.policy -> 'needs', g.policy -> 'holders', array_remove(comporta.in_favour(g.votes), actor));
    if (g.state = 'no_go' and g.decision -> 'by' ? actor)
       or (g.state = 'go' and array_position(places, null) is not null) then
        events := events || jsonb_build_array(comporta.gate_event(g, 'gate_reopened', actor,
            jsonb_build_object('at', comporta.utc(at), 'why', format('%s revoked: %s', actor, reason))));
    end if;
    perform comporta.gate_record(g.stream, g.version, events);
    return null;
end
$$;

-- Tells a gate what its evidence is now. When that differs, votes and a decision that nobody acted on are void. Returns whether it differed.
create function comporta.gate_renew(gate_id bigint, evidence jsonb, blockers jsonb, actor text) returns boolean
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    g   comporta.gate;
    now_digest text := comporta.evidence_digest(evidence, blockers);
begin
    perform comporta.gate_lock();
    select * into g from comporta.gate where gate = gate_id;
    if not found then
        raise exception 'there is no gate %', gate_id using errcode = 'LG012';
    end if;
    if g.state not in ('open', 'go') or g.consumed_by is not null or g.evidence_digest = now_digest then
        return false;
    end if;
    perform comporta.gate_record(g.stream, g.version, jsonb_build_array(comporta.gate_event(g, 'gate_evidence_changed', actor, jsonb_build_object(
        'evidence', evidence, 'blockers', blockers, 'evidence_digest', now_digest, 'at', comporta.utc(comporta.now()), 'voided', g.votes,
        'changes', coalesce((
            select jsonb_agg(word order by word)
              from (select case when former.item is null then format('%s is new', coalesce(latter.item, former.item) ->> 'name')
                                when latter.item is null then format('%s is gone', former.item ->> 'name')
                                else format('%s: %s.. -> %s..', former.item ->> 'name', left(former.item ->> 'digest', 6), left(latter.item ->> 'digest', 6)) end
                      from (select item from jsonb_array_elements(g.evidence) item) as former
                      full join (select item from jsonb_array_elements(evidence) item) as latter on former.item ->> 'name' = latter.item ->> 'name'
                     where former.item ->> 'digest' is distinct from latter.item ->> 'digest'
                    union all
                    select 'blocker gone: ' || blocker from jsonb_array_elements_text(g.blockers) blocker where not blockers ? blocker
                    union all
                    select 'new blocker: ' || blocker from jsonb_array_elements_text(blockers) blocker where not g.blockers ? blocker
                   ) as difference (word)), '[]')))));
    return true;
end
$$;

-- Acts on a gate: what is its answer, and is it good for CONSUMER now? Once given to one consumer, a decision is nobody else's.
-- EVIDENCE_NOW is the digest of the evidence as the caller has just collected it. With a null consumer nothing is used up, and a decision
-- that another consumer has used is told as it is.
-- Returns go, no_go, expired, withdrawn, waiting, evidence_changed or consumed_elsewhere.
create function comporta.gate_consume(gate_id bigint, consumer text, evidence_now text) returns text
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    g      comporta.gate;
    at     timestamptz;
    word   text;
    voters text[];
    events jsonb := '[]';
begin
    perform comporta.gate_lock();
    at := comporta.now();
    select * into g from comporta.gate where gate = gate_id;
    if not found then
        raise exception 'there is no gate %', gate_id using errcode = 'LG012';
    end if;
    if g.consumed_by is not null then
        return case when consumer is null or g.consumed_by = consumer then g.state else 'consumed_elsewhere' end;
    end if;
    word := case
        when g.state = 'open' and at < g.deadline then 'waiting'
        when g.state = 'open' or (g.state = 'go' and at >= g.valid_until) then 'expired'
        when g.state = 'go' and g.evidence_digest is distinct from evidence_now then 'evidence_changed'
        else g.state end;
    if word in ('waiting', 'withdrawn', 'evidence_changed') then
        return word;
    end if;
    if word = 'go' then
        -- Decided when the last vote came; counted again when it is used.
        voters := array(select voter from unnest(comporta.in_favour(g.votes)) voter where not g.policy -> 'excluded' ? voter);
        if array_position(comporta.match_votes(g.policy -> 'needs', g.policy -> 'holders', voters), null) is not null then
            raise exception 'gate % says go, but its votes do not make it so', gate_id
                using errcode = 'LG013', hint = 'Nothing was let through. Verify the ledger: comporta events verify, comporta events replay --check.';
        end if;
    end if;
    if word = 'expired' and g.state <> 'expired' then
        events := jsonb_build_array(comporta.gate_event(g, 'gate_expired', 'comporta', comporta.gate_expiry(g, at)));
    end if;
    if consumer is not null then
        events := events || jsonb_build_array(comporta.gate_event(g, 'gate_consumed', consumer,
            jsonb_build_object('consumer', consumer, 'answer', word, 'at', comporta.utc(at), 'evidence_digest', g.evidence_digest)));
    end if;
    if events <> '[]' then
        perform comporta.gate_record(g.stream, g.version, events);
    end if;
    return word;
end
$$;

-- What an expiry says: whose answer was missing, or that a Go was not used in time.
create function comporta.gate_expiry(g comporta.gate, at timestamptz) returns jsonb
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('at', comporta.utc(at), 'was', g.state, 'due', comporta.utc(case g.state when 'go' then g.valid_until else g.deadline end),
        'silent', coalesce((select jsonb_agg(distinct holder) from jsonb_each(g.policy -> 'holders') role (name, people), jsonb_array_elements_text(role.people) holder
                             where g.state = 'open' and not g.votes @> jsonb_build_array(jsonb_build_object('actor', holder))), '[]'))
$$;

-- Records what time has brought: reminders, gates whose time is over, decisions that lapsed. Returns the gates concerned.
create function comporta.gate_sweep() returns bigint[]
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    g       comporta.gate;
    at      timestamptz := comporta.now();
    due     bigint;
    touched bigint[] := '{}';
begin
    -- Looked at without the lock, since there is hardly ever something to do.
    if not exists (select from comporta.gate
                    where consumed_by is null
                      and ((state = 'open' and (at >= deadline or at >= opened_at + make_interval(secs => remind_after_s[reminded + 1])))
                           or (state = 'go' and at >= valid_until))) then
        return touched;
    end if;
    perform comporta.gate_lock();
    for g in select * from comporta.gate where consumed_by is null and state in ('open', 'go') order by gate loop
        if (g.state = 'open' and at >= g.deadline) or (g.state = 'go' and at >= g.valid_until) then
            perform comporta.gate_record(g.stream, g.version,
                jsonb_build_array(comporta.gate_event(g, 'gate_expired', 'comporta', comporta.gate_expiry(g, at))));
        elsif g.state = 'open' then
            select count(*) into due from unnest(g.remind_after_s) after where at >= g.opened_at + make_interval(secs => after);
            continue when due <= g.reminded;
            perform comporta.gate_record(g.stream, g.version, (
                select jsonb_agg(comporta.gate_event(g, 'gate_reminded', 'comporta',
                           comporta.gate_expiry(g, at) || jsonb_build_object('nth', nth, 'after_s', g.remind_after_s[nth], 'late', nth < due)) order by nth)
                  from generate_series(g.reminded + 1, due) nth));
        else
            continue;
        end if;
        touched := touched || g.gate;
    end loop;
    return touched;
end
$$;

-- What people see beside the row: who fills which place, and what is missing.
create function comporta.gate_places(g comporta.gate) returns jsonb
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select jsonb_agg(jsonb_build_object('role', role, 'actor', actor) order by nth)
      from rows from (
               unnest(array(select need ->> 'role' from jsonb_array_elements(g.policy -> 'needs') with ordinality listed (need, nth),
                                   generate_series(1, (need ->> 'count')::integer) copy order by nth, copy)),
               unnest(comporta.match_votes(g.policy -> 'needs', g.policy -> 'holders', comporta.in_favour(g.votes))))
           with ordinality place (role, actor, nth)
$$;

revoke all on function comporta.gate_open(text, jsonb, text), comporta.gate_decide(jsonb, text, text, text, text, jsonb, text, boolean),
    comporta.gate_revoke(bigint, text, text, text), comporta.gate_renew(bigint, jsonb, jsonb, text),
    comporta.gate_consume(bigint, text, text), comporta.gate_sweep() from public;
grant execute on function comporta.gate_open(text, jsonb, text), comporta.gate_decide(jsonb, text, text, text, text, jsonb, text, boolean),
    comporta.gate_revoke(bigint, text, text, text), comporta.gate_renew(bigint, jsonb, jsonb, text),
    comporta.gate_consume(bigint, text, text), comporta.gate_sweep() to comporta_app;
grant select on comporta.gate to comporta_app;
