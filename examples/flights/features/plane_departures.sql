-- The last time that a plane left New York: how late it was, and how much time that leaves it to fly there and back
-- before its next departure from New York.
{{ config(entity='tailnum', event_time='departed_at', ttl='3d') }}
with legs as (
    select
        flight_id,
        tailnum,
        departed_at,
        dep_delay,
        date_diff('minute', scheduled_departure, scheduled_arrival) as minutes,
        lead(scheduled_departure) over (partition by tailnum order by scheduled_departure, flight_id) as next_departure
    from {{ ref('raw_flights') }}
    where tailnum is not null
)

select
    tailnum,
    departed_at,
    dep_delay as delay,
    greatest(-1440, least(date_diff('minute', departed_at, next_departure) - 2 * minutes, 1440)) as slack_minutes
from legs
where departed_at is not null
qualify row_number() over (partition by tailnum, departed_at order by flight_id) = 1
