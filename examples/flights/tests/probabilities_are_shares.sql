-- Of flights with much the same probability, that share is late: no tenth of the flights is off by more than 0.1.
with ranked as (
    select label::integer as late, prediction, ntile(10) over (order by prediction) as tenth
    from {{ ref('trees') }}
    where part = 'test'
)

select tenth, avg(prediction) as predicted, avg(late) as found
from ranked
group by tenth
having abs(avg(prediction) - avg(late)) > 0.1
