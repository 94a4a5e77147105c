"""A medallion lakehouse on Delta tables as a Dagster code location.

`ingest`, `lake`, `contracts` and `planning` know neither Dagster nor dbt; `components` is where they meet Dagster, and
`defs` holds declarations only. This module imports nothing: each process pays only for what it uses.
"""

__version__ = "0.1.0"
