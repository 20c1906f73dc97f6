with ranked as (
    select label::integer as late, ntile(5) over (order by prediction desc) as fifth
    from {{ ref('trees') }}
    where part = 'test'
)

select avg(late) filter (where fifth = 1) as likeliest, avg(late) as all_flights
from ranked
having likeliest < 1.5 * all_flights
