with reach as (
    select case when %(until)s::timestamptz is null then coalesce((select max(id) from comporta.event), 0)
                else coalesce((select max(id) from comporta.event where "timestamp" <= %(until)s), 0) end as upto
)
select upto, (select count(*) from comporta.event where id <= upto and (%(stream)s::text is null or stream = %(stream)s))
  from reach
