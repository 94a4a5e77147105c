"""Databases, pulled: tables and queries of any database into bronze, whole, by window, or what is new.

`pulls` decides what to read and commits it; `postgres`, `alchemy` and `duckdb_file` read; `progress` knows up to where.
Needs neither dagster nor dbt.
"""
