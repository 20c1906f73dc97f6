-- Of the flights in each fifth by probability, about that share is late. (ref() of a model: its predictions on rows that
-- it was not trained on.)
with ranked as (
    select label::integer as late, prediction, ntile(5) over (order by prediction) as fifth
    from {{ ref('trees') }}
    where part = 'test'
)

select fifth, avg(prediction) as predicted, avg(late) as found
from ranked
group by fifth
having abs(avg(prediction) - avg(late)) > 0.15
