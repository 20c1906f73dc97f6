-- How late flights have left an airport in the last hours: known as soon as they leave.
{{ config(entity='airport', event_time='departed_at', ttl='12h') }}
with moments as (
    select
        origin as airport,
        departed_at,
        count(*) as flights,
        sum(dep_delay) as delay,
        count(*) filter (where dep_delay > {{ var('late_minutes') }}) as late
    from {{ ref('raw_flights') }}
    where departed_at is not null
    group by origin, departed_at
)

select
    airport,
    departed_at,
    sum(delay) over one_hour / sum(flights) over one_hour as delay_1h,
    sum(late) over one_hour / sum(flights) over one_hour as late_1h,
    sum(delay) over three_hours / sum(flights) over three_hours as delay_3h,
    sum(late) over three_hours / sum(flights) over three_hours as late_3h
from moments
window
    one_hour as (partition by airport order by departed_at range between interval 1 hour preceding and current row),
    three_hours as (partition by airport order by departed_at range between interval 3 hours preceding and current row)
