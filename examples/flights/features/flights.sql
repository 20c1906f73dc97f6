-- One row for each flight: what its schedule says, and how it went.
with planned as (
    select
        *,
        lag(scheduled_arrival) over (partition by tailnum order by scheduled_departure, flight_id) as plane_planned_down
    from {{ ref('raw_flights') }}
)

select
    flight_id,
    carrier,
    carrier || flight as service,
    origin,
    dest,
    tailnum,
    scheduled_departure,
    departed_at,
    arrived_at,
    distance,
    isodow(date) as weekday,
    sched_dep_time // 100 * 60 + sched_dep_time % 100 as minute_of_day,
    sched_arr_time // 100 as arrival_hour,
    -- how crowded the airport's schedule is half an hour before and after
    count(*) over (
        partition by origin order by scheduled_departure
        range between interval 30 minutes preceding and interval 30 minutes following
    ) as departures_around,
    -- the time the plane has, by the schedule, to come back from where it last went to from New York
    case
        when tailnum is not null then least(date_diff('minute', plane_planned_down, scheduled_departure), 2880)
    end as plane_turn_minutes,
    dep_delay,
    arr_delay,
    arr_delay > {{ var('late_minutes') }} as is_late
from planned
