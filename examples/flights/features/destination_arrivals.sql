-- How late flights have arrived at a destination, from all three airports.
{{ config(entity='destination', event_time='arrived_at', ttl='7d') }}
with moments as (
    select
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
    dest,
    arrived_at,
    sum(delay) over one_day / sum(flights) over one_day as delay_1d,
    sum(late) over one_day / sum(flights) over one_day as late_1d,
    sum(delay) over one_week / sum(flights) over one_week as delay_7d,
    sum(late) over one_week / sum(flights) over one_week as late_7d,
    (sum(flights) over one_week)::integer as flights_7d
from moments
window
    one_day as (partition by dest order by arrived_at range between interval 1 day preceding and current row),
    one_week as (partition by dest order by arrived_at range between interval 7 days preceding and current row)
