-- Both sides in one snapshot; only rows that differ become JSON.
select to_jsonb(live), to_jsonb(rebuilt)
  from {live} as live
  full join {as_of}(9223372036854775807) as rebuilt using ({key})
 where live is distinct from rebuilt
 limit {limit}
