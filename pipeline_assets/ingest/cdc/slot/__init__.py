"""A PostgreSQL replication slot as a source of change events: snapshot, stream, and what can be wrong with either.

`drain` is a run. The change tables are in `ingest.cdc.table`.
"""
