-- Purpose:     where everything stands, folded from the ledger: views, so they cannot drift from it.
-- Requires:    0001_ledger.sql.
-- Locks:       none.
-- Transaction: yes.

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
