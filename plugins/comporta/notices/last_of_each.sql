-- The last mail to each person: is it known to have arrived at their mail server?
select distinct on (recipient) recipient, state, tries, said, coalesce(settled_at, created_at) as at
  from comporta.mail
 order by recipient, id desc
