-- Purpose:     where everything stood after any event: the views of 0002 as functions of the last event that counts.
-- Requires:    0002_current_state.sql.
-- Locks:       none.
-- Transaction: yes.

-- In a stream, the order of versions is the order of ids.
create function comporta.current_state_as_of(upto bigint) returns setof comporta.current_state
    language sql stable
begin atomic
    select event.stream, event.version, event.id, event.feature, event.workflow, event.event_type, event.phase, event.payload,
           event.actor, event."timestamp"
      from (select max(id) as id from comporta.event where id <= upto group by stream) as last
      join comporta.event using (id);
end;
comment on function comporta.current_state_as_of(bigint) is 'Where every stream stood after the event of that id.';

create function comporta.latest_by_type_as_of(upto bigint) returns setof comporta.latest_by_type
    language sql stable
begin atomic
    select event.stream, event.event_type, event.id, event.version, event.feature, event.workflow, event.phase, event.payload,
           event.actor, event."timestamp"
      from (select max(id) as id from comporta.event where id <= upto group by stream, event_type) as last
      join comporta.event using (id);
end;
comment on function comporta.latest_by_type_as_of(bigint) is 'The last event of each type in each stream, up to the event of that id.';

grant execute on function comporta.current_state_as_of(bigint), comporta.latest_by_type_as_of(bigint) to comporta_app;
