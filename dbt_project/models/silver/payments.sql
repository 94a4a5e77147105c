{{
    config(
        meta={
            'strategy': 'merge',
            'unique_key': ['payment_id', '_bucket'],
            'sequence': '_extracted_at',
            'partition_by': '_bucket',
            'date_column': '_changed_date',
            'optional': true,
        }
    )
}}

-- Each row as it was last read. The touched days of bronze are read again as a whole; a stored row is replaced only by
-- one that was read later. Payments change while they are young, so payments with neighbouring numbers share a
-- partition.
with source as (

    select
        payment_id,
        order_id,
        customer_id,
        amount,
        method,
        status,
        paid_at,
        updated_at,
        _deleted,
        _extracted_at,
        _partition_date,
        _source.line as _line,
    from {{ touched_rows(source('bronze', 'shop_db__payments'), '_partition_date') }}

),

last_read as (

    select *
    from source
    qualify row_number() over (partition by payment_id order by _extracted_at desc, _line desc) = 1

),

final as (

    select
        ---------- ids
        payment_id,
        order_id,
        customer_id,

        ---------- numerics
        amount as amount_gbp,

        ---------- text
        method,
        status,

        ---------- timestamps
        paid_at,
        updated_at,

        ---------- technical
        _deleted,
        _extracted_at,
        _partition_date as _changed_date,
        payment_id // 100000 as _bucket,
    from last_read

)

select * from final
