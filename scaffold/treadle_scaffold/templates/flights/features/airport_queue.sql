-- How many flights should have left an airport and stand there still. (Cancelled ones are not counted: when a flight was
-- cancelled is not in the data.)
{{ config(entity='airport', event_time='moment', ttl='12h') }}
with changes as (
    select origin as airport, scheduled_departure as moment, 1 as flights
    from {{ ref('raw_flights') }}
    where departed_at is not null
    union all
    select origin, greatest(departed_at, scheduled_departure), -1
    from {{ ref('raw_flights') }}
    where departed_at is not null
),

moments as (
    select airport, moment, sum(flights) as flights from changes group by airport, moment
)

select
    airport,
    moment,
    (sum(flights) over (partition by airport order by moment))::integer as waiting
from moments
