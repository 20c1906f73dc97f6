with ranked as (
    select label::integer as late, ntile(10) over (order by prediction desc) as tenth
    from {{ ref('trees') }}
    where part = 'test'
)

select avg(late) filter (where tenth = 1) as likeliest, avg(late) as all_flights
from ranked
having likeliest < 2 * all_flights
