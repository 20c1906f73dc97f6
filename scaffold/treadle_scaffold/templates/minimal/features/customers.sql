select
    customer_id,
    plan,
    months,
    orders_90d,
    tickets_90d,
    tickets_90d / greatest(orders_90d, 1) as tickets_per_order,
    churned
from {{ ref('raw_customers') }}
