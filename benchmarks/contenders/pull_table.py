"""The payments of a PostgreSQL into a Delta table below a folder. Arguments: how, URL, folder.

ours is what the component DatabaseTable runs. pandas is `read_sql` and `write_deltalake`. dlt is `sql_database` into its
filesystem destination, table format delta; dlt-arrow the same with its pyarrow backend instead of the default one.
"""

import sys
from datetime import date
from pathlib import Path


def ours(url: str, folder: str) -> None:
    """Pulls as a run does."""
    from benchmarks.payments import Payments
    from pipeline_assets.ingest.batch.watermark import Watermark
    from pipeline_assets.ingest.database import pulls
    from pipeline_assets.lake import Lake
    from pipeline_assets.settings import load_settings

    source = pulls.DatabaseSource(
        "bank__payments",
        Payments,
        ("payment_id",),
        source_table="public.payments",
        mode="incremental",
        watermark=Watermark.of(Payments, "updated_at"),
    )
    settings = load_settings()
    lake = Lake(folder)
    with lake.connect(memory_limit=settings.duckdb_memory_limit, threads=settings.duckdb_threads) as con:
        pulls.pull(lake, con, source, pulls.connect(url), date(2026, 1, 1), date(2026, 1, 1))


def with_pandas(url: str, folder: str) -> None:
    """Reads all into a frame, then writes it."""
    import pandas as pd
    from deltalake import write_deltalake
    from sqlalchemy import create_engine

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        frame = pd.read_sql("SELECT * FROM payments", connection)
    write_deltalake(folder, frame)


def with_dlt(url: str, folder: str, backend: str) -> None:
    """Runs a pipeline of dlt."""
    import dlt
    from dlt.sources.sql_database import sql_table

    table = sql_table(
        credentials=url.replace("postgresql://", "postgresql+psycopg://"), table="payments", backend=backend
    )
    table.apply_hints(table_format="delta")
    pipeline = dlt.pipeline(
        "payments",
        pipelines_dir=str(Path(folder, "dlt")),
        destination=dlt.destinations.filesystem(bucket_url=Path(folder, "lake").as_uri()),
        dataset_name="bank",
    )
    pipeline.run(table)


if __name__ == "__main__":
    how, url_, folder_ = sys.argv[1:]
    if how == "ours":
        ours(url_, folder_)
    elif how == "pandas":
        with_pandas(url_, folder_)
    else:
        with_dlt(url_, folder_, "pyarrow" if how == "dlt-arrow" else "sqlalchemy")
