-- What a waiting sensor compares, and in how many seconds time will change it by itself. Withdrawn gates are nobody's answer elsewhere.
select g.gate || ' ' || g.state || ' ' || g.revision,
       extract(epoch from least(case g.state when 'open' then g.deadline when 'go' then g.valid_until end,
                                case g.state when 'open' then g.opened_at + make_interval(secs => g.remind_after_s[g.reminded + 1]) end)
                          - comporta.now())::double precision
  from comporta.gate g
 where case when %(gate)s::bigint is not null then g.gate = %(gate)s::bigint
            else g.name = %(name)s and starts_with(g.asker, %(asker)s) and g.state <> 'withdrawn' end
 order by g.gate desc
 limit 1
