{{ config(meta={'strategy': 'replace', 'unique_key': 'customer_id'}) }}

{%- do follow(ref('invoice_lines'), ref('customers'), ref('payments'), ref('accounts')) %}
{%- set touched = touched_keys(ref('invoice_lines'), 'invoice_date', 'customer_id') %}

with source as (

    select
        customer_id,
        invoice_no,
        invoice_date,
        line_amount_gbp,
    from {{ ref('invoice_lines') }}
    where is_sale and {{ touched }}

),

orders as (

    select
        customer_id,
        invoice_no,
        sum(line_amount_gbp) as order_value_gbp,
        min(invoice_date) as first_order_date,
        max(invoice_date) as last_order_date,
    from source
    group by customer_id, invoice_no

),

customers as (

    select
        customer_id,
        count(*) as total_orders,
        cast(sum(order_value_gbp) as decimal(18, 3)) as lifetime_value_gbp,
        min(first_order_date) as first_order_date,
        max(last_order_date) as last_order_date,
        cast(null as date) as stored_as_of_date,
        cast(null as decimal(18, 3)) as stored_paid_gbp,
        cast(null as timestamptz) as stored_last_paid_at,
        true as is_changed,
    from orders
    group by customer_id

    {%- if not is_rebuild() %}

    union all

    -- All other customers as they are stored: their orders have not changed, so silver is not read for them.
    select
        customer_id,
        total_orders,
        lifetime_value_gbp,
        first_order_date,
        last_order_date,
        as_of_date as stored_as_of_date,
        paid_gbp as stored_paid_gbp,
        last_paid_at as stored_last_paid_at,
        {{ changed_keys(ref('customers'), 'customer_id') }}
        or {{ changed_owners(ref('payments'), 'payment_id', 'customer_id') }}
        or {{ changed_owners(ref('accounts'), 'account_id', 'customer_id') }} as is_changed,
    from {{ this }}
    where not ({{ touched }})

    {%- endif %}

),

-- A subquery, not max() over (), which sometimes crashes DuckDB 1.5.5 on little or no input (duckdb/duckdb#25713).
dated as (

    select
        *,
        (select max(last_order_date) from customers) as as_of_date,
    from customers

),

-- The shop's database may lack the customer or have deleted them: then only their sales are known.
contacts as (

    select
        customer_id,
        {{ cleaned_text('name') }} as name,
        {{ cleaned_email('email') }} as email,
        {{ cleaned_phone('phone') }} as phone,
    from {{ ref('customers') }}
    where not _deleted

),

payments as (

    select
        customer_id,
        cast(sum(amount_gbp) as decimal(18, 3)) as paid_gbp,
        max(paid_at) as last_paid_at,
    from {{ ref('payments') }}
    where
        not _deleted
        and status = 'captured'
        and customer_id in (select customer_id from dated where is_changed)
    group by customer_id

),

-- A customer may have several accounts; the one that was updated last counts.
accounts as (

    select
        customer_id,
        segment,
        account_owner,
    from {{ ref('accounts') }}
    where not _deleted and customer_id is not null
    qualify row_number() over (partition by customer_id order by updated_at desc, account_id desc) = 1

),

final as (

    select
        dated.customer_id,
        dated.total_orders,
        dated.lifetime_value_gbp,
        cast(dated.lifetime_value_gbp / dated.total_orders as decimal(18, 3)) as avg_order_value_gbp,
        dated.first_order_date,
        dated.last_order_date,
        dated.as_of_date - dated.last_order_date as days_since_last_order,
        dated.as_of_date,
        {{ customer_segment('dated.lifetime_value_gbp') }} as customer_segment,
        contacts.name,
        contacts.email,
        contacts.phone,
        case when dated.is_changed then payments.paid_gbp else dated.stored_paid_gbp end as paid_gbp,
        case when dated.is_changed then payments.last_paid_at else dated.stored_last_paid_at end as last_paid_at,
        accounts.segment as account_segment,
        accounts.account_owner,
    from dated
    left join contacts on dated.customer_id = contacts.customer_id
    left join payments on dated.customer_id = payments.customer_id
    left join accounts on dated.customer_id = accounts.customer_id
    -- A sale on a later day than any before moves as_of_date, and with it every customer's days_since_last_order. So
    -- the stored customers are written again when the date moved, and left alone when it did not.
    where dated.is_changed or dated.stored_as_of_date is distinct from dated.as_of_date

)

select * from final
