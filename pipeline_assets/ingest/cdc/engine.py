"""Debezium's own engine as reader of a PostgreSQL source, in this process: the optional extra `[debezium]`.

The default reader of a slot is `slot`; this one feeds the same change tables. (Being written.)
"""
