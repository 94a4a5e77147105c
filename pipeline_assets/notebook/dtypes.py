"""Names of types as people write them in a notebook, as DuckDB types. `ingest.conform.casts` casts the values.

Known are the spellings of pandas and NumPy ('int64', 'Int64', 'datetime64[ns, UTC]', 'category'), of polars ('Utf8',
`pl.Int64`, `pl.Decimal(12, 2)`), Python's own (`int`, `str`), and 'decimal(12,2)'. Times are microseconds, whichever
unit is named, because Delta keeps microseconds: a nanosecond that is not zero does not fit.
"""

import re
from dataclasses import dataclass

import polars as pl

from pipeline_assets.contracts.base import ContractError, duckdb_type
from pipeline_assets.notebook.frames import NotebookError

_NAMES = {
    "int": "BIGINT", "int64": "BIGINT", "int32": "INTEGER", "int16": "SMALLINT", "int8": "TINYINT",
    "uint64": "UBIGINT", "uint32": "UINTEGER", "uint16": "USMALLINT", "uint8": "UTINYINT",
    "float": "DOUBLE", "float64": "DOUBLE", "float32": "FLOAT",
    "bool": "BOOLEAN", "bool_": "BOOLEAN", "boolean": "BOOLEAN",
    "str": "VARCHAR", "str_": "VARCHAR", "string": "VARCHAR", "utf8": "VARCHAR",
    "bytes": "BLOB", "binary": "BLOB",
    "date": "DATE", "date32": "DATE", "datetime": "TIMESTAMP", "datetime64": "TIMESTAMP",
}  # fmt: skip
_AS_IT_IS = "object"
_CATEGORIES = ("category", "categorical", "enum")
_TIME = re.compile(r"datetime64\[(s|ms|us|ns)(?:, *(?P<zone>[^\]]+))?\]")
_DECIMAL = re.compile(r"decimal\((\d+), *(\d+)\)")
_UNSIGNED: dict[type[pl.DataType], str] = {
    pl.UInt8: "uint8",
    pl.UInt16: "uint16",
    pl.UInt32: "uint32",
    pl.UInt64: "uint64",
}


@dataclass(frozen=True)
class Wanted:
    """What a column is to become.

    Attributes:
        dtype: DuckDB type; None leaves the values as they are.
        is_category: Whether the result is to be categories (of texts, in polars).
    """

    dtype: str | None
    is_category: bool = False


def wanted(dtype: object, column: str) -> Wanted:
    """Read a type.

    Args:
        dtype: A name, or a type of Python, NumPy, pandas or polars.
        column: Its column, for the message.

    Raises:
        NotebookError: The type is not known.
    """
    if isinstance(dtype, pl.DataType) or (isinstance(dtype, type) and issubclass(dtype, pl.DataType)):
        return _of_polars(dtype, column)
    # str() names the types of pandas and NumPy; classes have their own name
    name = (dtype.__name__ if isinstance(dtype, type) else str(dtype)).strip().removesuffix("[pyarrow]").lower()
    if name == _AS_IT_IS:
        return Wanted(None)
    if name in _CATEGORIES:
        return Wanted(None, is_category=True)
    if found := _TIME.fullmatch(name):
        return Wanted("TIMESTAMP WITH TIME ZONE" if found["zone"] else "TIMESTAMP")
    if (found := _DECIMAL.fullmatch(name)) and 0 < int(found[1]) <= 38 and int(found[2]) <= int(found[1]):
        return Wanted(f"DECIMAL({found[1]},{found[2]})")
    if name in _NAMES:
        return Wanted(_NAMES[name])
    raise NotebookError(
        f"dtypes: {column}: {dtype!r} is not a known type; give {', '.join(sorted(_NAMES))}, datetime64[us, UTC], "
        "decimal(12,2), category, object, or a type of polars"
    )


def _of_polars(dtype: pl.DataType | type[pl.DataType], column: str) -> Wanted:
    kind = dtype if isinstance(dtype, type) else type(dtype)
    if kind in (pl.Categorical, pl.Enum):
        return Wanted(None, is_category=True)
    if kind is pl.Object:
        return Wanted(None)
    if kind in _UNSIGNED:
        return Wanted(_NAMES[_UNSIGNED[kind]])
    if kind is pl.Datetime:
        return Wanted("TIMESTAMP WITH TIME ZONE" if getattr(dtype, "time_zone", None) else "TIMESTAMP")
    try:
        if dtype is pl.Decimal:
            raise ContractError("give the digits, as in pl.Decimal(12, 2)")
        return Wanted(duckdb_type(dtype, column))
    except ContractError as error:
        raise NotebookError(f"dtypes: {column}: {error}") from None
