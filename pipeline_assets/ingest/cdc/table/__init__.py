"""Bronze change tables: events become rows and dead letters, with commits and counts, and the replay of dead letters.

Events come from `ingest.cdc.slot` and `ingest.cdc.files`.
"""
