"""REST APIs into bronze: a poll reads all pages of a resource, and becomes one batch or none.

`declared` is what a source says of itself, `poll` the whole way. dlt's REST client does paging and auth: what imports
it (`poll` and all that it uses) is imported when a poll starts, because that costs 0.5 CPU seconds.
"""
