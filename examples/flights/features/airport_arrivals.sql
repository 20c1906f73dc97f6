-- How flights from an airport lost time on the way: on the ground before take-off and after landing, and in all.
{{ config(entity='airport', event_time='arrived_at', ttl='12h') }}
with moments as (
    select
        origin as airport,
        arrived_at,
        count(*) as flights,
        sum(date_diff('minute', departed_at, arrived_at) - air_time) as taxi,
        sum(arr_delay - dep_delay) as lost
    from {{ ref('raw_flights') }}
    where arr_delay is not null
    group by origin, arrived_at
)

select
    airport,
    arrived_at,
    sum(taxi) over three_hours / sum(flights) over three_hours as taxi_3h,
    sum(lost) over three_hours / sum(flights) over three_hours as lost_3h
from moments
window three_hours as (partition by airport order by arrived_at range between interval 3 hours preceding and current row)
