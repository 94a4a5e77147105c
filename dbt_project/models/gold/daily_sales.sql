{{ config(meta={'strategy': 'replace', 'date_column': 'sale_date'}) }}

-- When a customer moves to another segment, all days on which that customer bought are recomputed.
{%- set days_of_moved_customers %}
select distinct invoice_lines.invoice_date
from {{ ref('invoice_lines') }} as invoice_lines
semi join (
    select coalesce(now.customer_id, earlier.customer_id) as customer_id
    from {{ ref('customer_metrics') }} as now
    full join {{ before(ref('customer_metrics')) }} as earlier
        on now.customer_id = earlier.customer_id
    where now.customer_segment is distinct from earlier.customer_segment
) as moved using (customer_id)
where invoice_lines.is_sale
{%- endset %}

with source as (

    select
        invoice_date as sale_date,
        country,
        customer_id,
        invoice_no,
        line_amount_gbp,
    from {{ touched_rows(ref('invoice_lines'), 'invoice_date', also=days_of_moved_customers) }}
    where is_sale

),

orders as (

    select
        sale_date,
        country,
        customer_id,
        invoice_no,
        sum(line_amount_gbp) as order_value_gbp,
    from source
    group by sale_date, country, customer_id, invoice_no

),

customers as (

    select
        customer_id,
        customer_segment,
    from {{ ref('customer_metrics') }}

),

-- A left join, so that no revenue is lost: a customer without metrics gets a null segment, which a test reports.
sales as (

    select
        orders.sale_date,
        orders.country,
        customers.customer_segment,
        count(distinct orders.invoice_no) as total_orders,
        cast(sum(orders.order_value_gbp) as decimal(18, 3)) as total_revenue,
        count(distinct orders.customer_id) as unique_customers,
    from orders
    left join customers on orders.customer_id = customers.customer_id
    group by orders.sale_date, orders.country, customers.customer_segment

),

final as (

    select
        sale_date,
        country,
        customer_segment,
        total_orders,
        total_revenue,
        cast(total_revenue / total_orders as decimal(18, 3)) as avg_order_value,
        unique_customers,
    from sales

)

select * from final
