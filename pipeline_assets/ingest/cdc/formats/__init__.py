"""Records of changes (Debezium's, Maxwell's) parsed into change events.

`parse` chooses the parser by name. Which files are read is in `ingest.cdc.files.ingest`.
"""
