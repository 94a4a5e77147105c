{{ change_history(
    source('bronze', 'shop_db__products'),
    contract='shop_db.Products',
    keys=['stock_code'],
    bucket='md5_number_lower(stock_code) % 16',
    valid_at='updated_at',
) }}
