{{ config(meta={'strategy': 'replace', 'unique_key': 'stock_code'}) }}

with history as (

    select
        stock_code,
        description,
        unit_price,
        valid_from,
        valid_to,
        is_current,
    from {{ changed_rows(ref('products_history'), 'stock_code') }}
    where not is_deleted

),

final as (

    select
        ---------- ids
        {{ version_key('stock_code', 'valid_from') }} as product_key,
        stock_code,

        ---------- text
        {{ cleaned_text('description') }} as description,

        ---------- numerics
        unit_price as unit_price_gbp,

        ---------- booleans
        {{ is_product('stock_code') }} as is_product,

        ---------- timestamps
        valid_from,
        valid_to,
        is_current,
    from history

)

select * from final
