"""DuckDB alone: runs the SQL script that is named, in memory. Imports duckdb and nothing else."""

import sys
from pathlib import Path

import duckdb

if __name__ == "__main__":
    with duckdb.connect(":memory:") as con:
        con.execute(Path(sys.argv[1]).read_text())
