select airport, waiting
from {{ ref('airport_queue') }}
qualify row_number() over (partition by airport order by moment desc) = 1 and waiting <> 0
