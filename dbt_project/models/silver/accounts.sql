{{
    config(
        meta={
            'strategy': 'merge',
            'unique_key': ['account_id', '_bucket'],
            'sequence': '_extracted_at',
            'partition_by': '_bucket',
            'date_column': '_changed_date',
            'optional': true,
        }
    )
}}

-- Each row as it was last read, as in payments. Text keys are spread over partitions by their hash.
with source as (

    select
        account_id,
        customer_id,
        segment,
        account_owner,
        updated_at,
        _deleted,
        _extracted_at,
        _partition_date,
        _source.line as _line,
    from {{ touched_rows(source('bronze', 'crm__accounts'), '_partition_date') }}

),

last_read as (

    select *
    from source
    qualify row_number() over (partition by account_id order by _extracted_at desc, _line desc) = 1

),

final as (

    select
        ---------- ids
        account_id,
        customer_id,

        ---------- text
        {{ cleaned_text('segment') }} as segment,
        {{ cleaned_text('account_owner') }} as account_owner,

        ---------- timestamps
        updated_at,

        ---------- technical
        _deleted,
        _extracted_at,
        _partition_date as _changed_date,
        cast(md5_number_lower(account_id) % 4 as bigint) as _bucket,
    from last_read

)

select * from final
