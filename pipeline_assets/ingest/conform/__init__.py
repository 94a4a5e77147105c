"""Records to rows that fit a contract, or to dead letters with a reason: SQL expressions, nothing is read or written.

`conform` puts a record's SQL together; `names` matches fields with columns, `casts` converts values exactly.
"""
