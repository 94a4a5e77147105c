"""File formats: a landed file opened as a DuckDB relation of records, and the damage that each format can have.

`open_records` is the way in. Casts to the contract are in `ingest.conform.conform`.
"""
