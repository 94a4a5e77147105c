"""REST APIs into bronze: a poll reads all pages of a resource, and becomes one batch or none.

`source` holds the declaration, `poll` the whole way. dlt's REST client does paging and auth. `poll` and all modules
that import dlt are imported when a poll starts, because that costs 0.5 CPU seconds.
"""
