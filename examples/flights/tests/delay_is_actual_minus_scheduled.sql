select flight_id, arr_delay, scheduled_arrival, arrived_at
from {{ ref('raw_flights') }}
where arr_delay <> date_diff('minute', scheduled_arrival, arrived_at)
   or dep_delay <> date_diff('minute', scheduled_departure, departed_at)
