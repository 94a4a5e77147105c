"""Bronze change tables: events to rows and dead letters, their commits and accounts, and the replay of dead letters.

Where events come from is in `slot` and `files`.
"""
