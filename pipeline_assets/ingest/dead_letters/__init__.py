"""Dead letters of every kind of source, once they are in their tables: select them, group them, discard them.

Trying them again is not here, because it differs between rows (`ingest.batch.replay`) and change events
(`ingest.cdc.table.replay`).
"""
