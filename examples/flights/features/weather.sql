-- The weather of an hour is known when the hour is over.
{{ config(entity='airport', event_time='hour', known_at='measured_at', ttl='6h') }}
select
    origin as airport,
    hour,
    hour + interval 1 hour as measured_at,
    temp,
    humid,
    wind_speed,
    coalesce(wind_gust, wind_speed) as wind_gust,
    precip,
    pressure,
    visib,
    sum(precip) over six_hours as precip_6h,
    min(visib) over six_hours as visib_min_6h,
    pressure - first_value(pressure) over six_hours as pressure_change_6h
from {{ ref('raw_weather') }}
window six_hours as (partition by origin order by hour range between interval 6 hours preceding and current row)
