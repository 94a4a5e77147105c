"""Change data capture: what a database committed, as Debezium-shaped events in bronze change tables.

`events` defines the one format. `slot` reads a replication slot, `formats` parses the records of Debezium and
Maxwell, `table` writes bronze and replays dead letters, `files` is a run over landed records, `reconcile` compares a
source with silver. SQL in dbt_project/macros turns the events into silver.
"""
