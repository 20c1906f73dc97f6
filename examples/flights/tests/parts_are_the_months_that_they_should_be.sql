-- predicted_at is the moment of prediction. (In quotes: at is a word of SQL.)
select *
from {{ ref('trees') }}
where (part = 'test') <> (predicted_at >= timestamp '2013-11-01')
   or predicted_at < timestamp '2013-09-02'
