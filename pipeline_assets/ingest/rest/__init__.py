"""REST APIs into bronze: a poll reads all pages of a resource, and becomes one batch or none.

`source` holds the declaration, `poll` the whole way.
"""
