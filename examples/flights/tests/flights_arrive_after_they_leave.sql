select * from {{ ref('flights') }} where arrived_at <= departed_at
