-- Rows that a test returns are failures. Here: a flight whose own departure could stand in the history that predicts it.
select * from {{ ref('flights') }} where departed_at <= scheduled_departure - interval 2 hours
