"""Records of changes (Debezium's, Maxwell's) parsed into change events.

`parse` chooses the parser by name. Files of such records are read in `ingest.cdc.files.ingest`.
"""
