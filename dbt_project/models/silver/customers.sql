{{ change_state(
    source('bronze', 'shop_db__customers'),
    contract='shop_db.Customers',
    keys=['customer_id'],
    bucket='customer_id // 100000',
) }}
