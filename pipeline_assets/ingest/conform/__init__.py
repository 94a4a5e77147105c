"""Turns records into rows that fit a contract, or into dead letters with a reason.

Only SQL: nothing is read or written.

`conform` builds the SQL of a record; `names` matches fields with columns, `casts` converts values exactly. `retype` is
the exception: it rewrites a table with other types.
"""
