-- One row for each flight: what its schedule says, and how it went.
select
    flight_id,
    carrier,
    origin,
    dest,
    tailnum,
    scheduled_departure,
    departed_at,
    arrived_at,
    distance,
    isodow(date) as weekday,
    sched_dep_time // 100 * 60 + sched_dep_time % 100 as minute_of_day,
    arr_delay,
    arr_delay > {{ var('late_minutes') }} as is_late
from {{ ref('raw_flights') }}
