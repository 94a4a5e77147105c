"""The spine of all ways in: a batch becomes rows and dead letters, committed once with the position it ends at.

Each source decides what is read, and up to where: see `ingest.files`, `ingest.database`, `ingest.rest`, `ingest.cdc`.
"""
