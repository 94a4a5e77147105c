"""File formats: opens a landed file as a DuckDB relation of records, and finds the damage that each format can have.

The entry point is `open_records`. Casts to the contract are in `ingest.conform.conform`.
"""
