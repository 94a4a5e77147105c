{{ config(meta={'strategy': 'replace', 'unique_key': 'customer_id'}) }}

with history as (

    select
        customer_id,
        name,
        email,
        phone,
        country,
        created_at,
        valid_from,
        valid_to,
        is_current,
    from {{ changed_rows(ref('customers_history'), 'customer_id') }}
    where not is_deleted

),

final as (

    select
        ---------- ids
        {{ version_key('customer_id', 'valid_from') }} as customer_key,
        customer_id,

        ---------- text
        {{ cleaned_text('name') }} as name,
        {{ cleaned_email('email') }} as email,
        {{ cleaned_phone('phone') }} as phone,
        country,

        ---------- timestamps
        created_at,
        valid_from,
        valid_to,

        ---------- booleans
        is_current,
    from history

)

select * from final
