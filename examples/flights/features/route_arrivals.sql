-- How late flights have arrived on a route.
{{ config(entity='route', event_time='arrived_at', ttl='28d') }}
with moments as (
    select
        origin,
        dest,
        arrived_at,
        count(*) as flights,
        sum(arr_delay) as delay,
        count(*) filter (where arr_delay > {{ var('late_minutes') }}) as late
    from {{ ref('raw_flights') }}
    where arr_delay is not null
    group by all
)

select
    origin,
    dest,
    arrived_at,
    sum(delay) over one_week / sum(flights) over one_week as delay_7d,
    sum(late) over one_week / sum(flights) over one_week as late_7d,
    sum(delay) over one_month / sum(flights) over one_month as delay_28d,
    sum(late) over one_month / sum(flights) over one_month as late_28d,
    (sum(flights) over one_month)::integer as flights_28d
from moments
window
    one_week as (partition by origin, dest order by arrived_at range between interval 7 days preceding and current row),
    one_month as (partition by origin, dest order by arrived_at range between interval 28 days preceding and current row)
