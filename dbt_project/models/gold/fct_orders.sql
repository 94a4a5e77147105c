{{
    config(
        meta={
            'strategy': 'replace',
            'unique_key': 'order_id',
            'date_column': 'order_date',
            'partition_by': 'order_month',
        }
    )
}}

{%- do follow(ref('orders'), ref('customers_history')) %}

with changed_orders as (

    select
        order_id,
        customer_id,
        status,
        line_count,
        list_transform(try_cast(lines as json[]), lambda line: line ->> 'quantity') as quantities,
        total as total_gbp,
        ordered_at,
        _deleted,
    from {{ changed_rows(ref('orders'), 'order_id') }}

),

orders as (

    select
        order_id,
        customer_id,
        cast(null as varchar) as stored_customer_key,
        true as is_changed,
        status,
        line_count,
        -- Null instead of a wrong number when the lines are unknown or a quantity is not a whole number.
        case
            when len(list_filter(quantities, lambda quantity: regexp_full_match(quantity, '-?[0-9]{1,18}'))) =
            len(quantities)
                then cast(coalesce(list_sum(try_cast(quantities as bigint[])), 0) as bigint)
        end as units,
        total_gbp,
        ordered_at,
    from changed_orders
    where not _deleted

    {%- if not is_rebuild() %}

    union all

    -- Stored orders of customers whose history changed: another version may now be valid at the time of the order.
    select
        order_id,
        customer_id,
        customer_key as stored_customer_key,
        false as is_changed,
        status,
        line_count,
        units,
        total_gbp,
        ordered_at,
    from {{ this }}
    where
        {{ changed_keys(ref('customers_history'), 'customer_id') }}
        and order_id not in (select order_id from changed_orders)

    {%- endif %}

),

-- An order between two versions (the customer was deleted in between) gets the earlier one. An order before the first
-- version gets the first, which therefore begins at -infinity.
versions as (

    select
        customer_id,
        {{ version_key('customer_id', 'valid_from') }} as customer_key,
        case when row_number() over customer > 1 then valid_from else '-infinity' end as begins_at,
        lead(valid_from, 1, 'infinity') over customer as ends_at,
    from {{ ref('customers_history') }}
    where not is_deleted and customer_id in (select customer_id from orders)
    window customer as (partition by customer_id order by valid_from)

),

final as (

    select
        ---------- ids
        orders.order_id,
        orders.customer_id,
        versions.customer_key,

        ---------- text
        orders.status,

        ---------- booleans
        orders.status = 'cancelled' as is_cancelled,

        ---------- numerics
        orders.line_count,
        orders.units,
        orders.total_gbp,

        ---------- timestamps
        orders.ordered_at,
        cast(orders.ordered_at as date) as order_date,
        cast(date_trunc('month', orders.ordered_at) as date) as order_month,
    from orders
    left join versions
        on orders.customer_id = versions.customer_id
        and orders.ordered_at >= versions.begins_at
        and orders.ordered_at < versions.ends_at
    where orders.is_changed or versions.customer_key is distinct from orders.stored_customer_key

)

select * from final
