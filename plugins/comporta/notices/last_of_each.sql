-- The last mail to each person of which the outcome is known. One that waits says nothing yet: counting it would make a person
-- reachable by writing to them.
select distinct on (recipient) recipient, state, tries, said, settled_at as at
  from comporta.mail
 where state <> 'waiting'
 order by recipient, settled_at desc, id desc
