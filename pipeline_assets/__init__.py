"""A medallion lakehouse on Delta tables as a Dagster code location.

`ingest`, `lake` and `contracts` know neither Dagster nor dbt; `components` connects them to Dagster, and
`defs` holds declarations only. `notebook` is for people who work with frames; its classes can be imported from here,
too. This module imports nothing, so that each process pays only for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline_assets.notebook import BatchDataIngester, DataQualityFramework, DeltaLakeManager

__all__ = ["BatchDataIngester", "DataQualityFramework", "DeltaLakeManager"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("pipeline_assets.notebook"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
