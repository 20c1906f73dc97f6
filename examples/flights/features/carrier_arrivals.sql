-- How late a carrier's flights have arrived.
{{ config(entity='carrier', event_time='arrived_at', ttl='7d') }}
with moments as (
    select
        carrier,
        arrived_at,
        count(*) as flights,
        sum(arr_delay) as delay,
        count(*) filter (where arr_delay > {{ var('late_minutes') }}) as late
    from {{ ref('raw_flights') }}
    where arr_delay is not null
    group by all
)

select
    carrier,
    arrived_at,
    sum(delay) over one_day / sum(flights) over one_day as delay_1d,
    sum(late) over one_day / sum(flights) over one_day as late_1d,
    sum(delay) over one_week / sum(flights) over one_week as delay_7d,
    sum(late) over one_week / sum(flights) over one_week as late_7d,
    sum(delay) over one_month / sum(flights) over one_month as delay_28d,
    sum(late) over one_month / sum(flights) over one_month as late_28d,
    (sum(flights) over one_month)::integer as flights_28d
from moments
window
    one_day as (partition by carrier order by arrived_at range between interval 1 day preceding and current row),
    one_week as (partition by carrier order by arrived_at range between interval 7 days preceding and current row),
    one_month as (partition by carrier order by arrived_at range between interval 28 days preceding and current row)
