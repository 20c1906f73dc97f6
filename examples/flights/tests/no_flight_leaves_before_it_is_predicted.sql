-- Otherwise its own departure would stand in the history that predicts its arrival.
select * from {{ ref('flights') }} where departed_at <= scheduled_departure - interval 2 hours
