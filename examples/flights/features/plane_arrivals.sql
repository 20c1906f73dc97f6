-- How late a plane arrived where it last went to from New York.
{{ config(entity='tailnum', event_time='arrived_at', ttl='3d') }}
select tailnum, arrived_at, arr_delay as delay
from {{ ref('raw_flights') }}
where arr_delay is not null
qualify row_number() over (partition by tailnum, arrived_at order by flight_id) = 1
