-- Rows that a test returns are failures.
select avg(prediction) filter (where label) as churned, avg(prediction) filter (where not label) as stayed
from {{ ref('logistic') }}
where part = 'test'
having churned <= stayed
