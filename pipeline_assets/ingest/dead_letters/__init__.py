"""Dead letters of every kind of source, once they are in their tables: which ones, in which groups, and discarding.

Trying them again differs between rows (`ingest.batch.replay`) and change events (`ingest.cdc.table.replay`).
"""
