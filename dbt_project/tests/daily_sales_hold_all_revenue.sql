{{ config(meta={'dagster': {'ref': {'name': 'daily_sales'}}}) }}

-- Days on which the sum of daily_sales differs from the sum of silver's sale lines: revenue was lost or counted twice.
with days as (

    select
        sale_date,
        sum(total_revenue) as total_revenue,
    from {{ get_where_subquery(ref('daily_sales')) }}
    group by sale_date

),

lines as (

    select
        sale_date,
        sum(line_amount_gbp) as line_amount_gbp,
    from (
        select
            invoice_date as sale_date,
            line_amount_gbp,
        from {{ ref('invoice_lines') }}
        where is_sale
    )
    where {{ test_days(ref('daily_sales')) }}
    group by sale_date

),

final as (

    select
        sale_date,
        days.total_revenue,
        lines.line_amount_gbp,
    from days
    full join lines using (sale_date)
    where days.total_revenue is distinct from lines.line_amount_gbp

)

select * from final
