"""Writes the rows of Parquet files into a new Delta table. Arguments: how (copy or arrow), lake, source files (a glob).

copy is what the lake does: DuckDB's COPY and our commit. arrow streams the same query into delta-rs's own writer.
"""

import sys

from deltalake import WriterProperties, write_deltalake

from pipeline_assets.lake import Lake, Table, query_schema

if __name__ == "__main__":
    how, folder, source = sys.argv[1:]
    table, rows = Table(Lake(folder), "bronze.rows"), f"SELECT * FROM read_parquet('{source}')"
    with table.lake.connect() as con:
        if how == "copy":
            table.create(query_schema(con, rows))
            table.append(con, rows, batch_id="benchmark")
        else:
            write_deltalake(
                table.uri,
                con.sql(rows).to_arrow_reader(),
                writer_properties=WriterProperties(compression="ZSTD", compression_level=1),
            )
