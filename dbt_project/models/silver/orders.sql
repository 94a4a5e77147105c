-- Orders change while they are young, and their numbers grow: so ten thousand neighbours share a partition.
{{ change_state(
    source('bronze', 'shop_db__orders'),
    contract='shop_db.Orders',
    keys=['order_id'],
    bucket="coalesce(try_cast(regexp_extract(order_id, '[0-9]+') as bigint) // 10000, -1)",
) }}
