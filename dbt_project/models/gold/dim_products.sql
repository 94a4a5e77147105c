{{ config(meta={'strategy': 'replace', 'unique_key': 'stock_code'}) }}

with source as (

    select
        stock_code,
        description,
        unit_price_gbp,
        quantity,
        invoiced_at,
        invoice_date,
        is_sale,
    from {{ ref('invoice_lines') }}
    where {{ touched_keys(ref('invoice_lines'), 'invoice_date', 'stock_code') }}

),

products as (

    select
        stock_code,
        max(invoiced_at) filter (description is not null) as described_at,
        max(invoiced_at) filter (unit_price_gbp > 0) as priced_at,
        min(invoice_date) filter (is_sale) as first_sold_date,
        max(invoice_date) filter (is_sale) as last_sold_date,
        coalesce(sum(quantity) filter (is_sale), 0) as units_sold,
    from source
    group by stock_code

),

-- Several lines may carry the latest time: the greatest text and price win, so that the result has no chance in it.
latest as (

    select
        products.stock_code,
        max(source.description) filter (source.invoiced_at = products.described_at) as description,
        max(source.unit_price_gbp)
            filter (source.invoiced_at = products.priced_at and source.unit_price_gbp > 0) as unit_price_gbp,
    from source
    inner join products
        on source.stock_code = products.stock_code
        and source.invoiced_at >= least(products.described_at, products.priced_at)
    group by products.stock_code

),

final as (

    select
        products.stock_code,
        latest.description,
        latest.unit_price_gbp,
        products.first_sold_date,
        products.last_sold_date,
        cast(products.units_sold as bigint) as units_sold,
        -- Charges, postage and adjustments have other codes: POST, DOT, M, BANK CHARGES, gift_0001_20 ...
        regexp_full_match(products.stock_code, '[0-9]{5}[A-Za-z]{0,2}|DCGS[0-9A-Z]+') as is_product,
    from products
    left join latest on products.stock_code = latest.stock_code

)

select * from final
