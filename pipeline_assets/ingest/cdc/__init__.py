"""Change data capture: what a database committed, as Debezium-shaped events in bronze change tables.

`events` is the one format; `postgres` and `pgoutput` read a replication slot, `debezium` and `maxwell` parse records;
`change_table` writes bronze. `drain` is a run over a slot, `files` one over landed records; `replay` tries dead letters
again. What becomes of the events in silver is SQL in dbt_project/macros.
"""
