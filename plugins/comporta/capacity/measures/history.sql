-- Purpose:     rows of a table by the month in which they were made, and by the year in which they are true; the newest moment.
-- Requires:    SELECT on the table; session in UTC.
-- Locks:       ACCESS SHARE on the table.
-- Transaction: no matter. Reads every row.

select pg_catalog.date_trunc('month', {made})::date, {year}, count(*), max({made})::timestamptz
  from {table}
 where {made} is not null
 group by 1, 2
 order by 1, 2
