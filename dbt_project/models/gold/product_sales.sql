{{ config(meta={'strategy': 'replace', 'unique_key': 'stock_code'}) }}

with source as (

    select
        stock_code,
        quantity,
        invoice_date,
        is_sale,
    from {{ ref('invoice_lines') }}
    where {{ touched_keys(ref('invoice_lines'), 'invoice_date', 'stock_code') }}

),

final as (

    select
        stock_code,
        {{ is_product('stock_code') }} as is_product,
        min(invoice_date) filter (is_sale) as first_sold_date,
        max(invoice_date) filter (is_sale) as last_sold_date,
        cast(coalesce(sum(quantity) filter (is_sale), 0) as bigint) as units_sold,
    from source
    group by stock_code

)

select * from final
