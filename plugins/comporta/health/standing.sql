-- Where each breaker named stands, and what its window and its last samples say, in one snapshot.
select named.breaker, moment.now, %(target)s::text as target, b.state, b.since, b.opened_at, b.reason,
       w.n, w.bad, w.no_data, w.runs, w.slow,
       last.at as last_at, last.verdict as last_verdict, last.value as last_value, last.bound as last_bound, last.why as last_why,
       (select sample.at from comporta.breaker_sample sample
         where sample.release = %(release)s and sample.target = %(target)s and sample.breaker = named.breaker
           and sample.verdict <> 'no_data'
         order by sample.at desc limit 1) as last_data_at
  from unnest(%(names)s::text[]) with ordinality as named (breaker, nth)
 cross join (select comporta.now() as now) as moment
  left join comporta.breaker b on b.release = %(release)s and b.target = %(target)s and b.breaker = named.breaker
 cross join lateral comporta.breaker_window(%(release)s, %(target)s, named.breaker, moment.now, %(window_s)s,
                                            case b.state when 'half_open' then b.since else b.window_from end) as w
  left join lateral (
        select sample.at, sample.verdict, sample.value, sample.bound, sample.why
          from comporta.breaker_sample sample
         where sample.release = %(release)s and sample.target = %(target)s and sample.breaker = named.breaker
         order by sample.at desc, sample.id desc
         limit 1) as last on true
 order by named.nth
