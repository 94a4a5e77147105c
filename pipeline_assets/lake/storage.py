"""Where the lake is: the place of each table, storage options, and DuckDB connections that can read and write there.

What a table can do is in `table`; how its files are written in `files`.
"""

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from pipeline_assets.lake import faults
from pipeline_assets.lake.errors import LakeError, LakeUnreadableError
from pipeline_assets.lake.spill import spill_path
from pipeline_assets.lake_place import refusal
from pipeline_assets.sql import quote_text

LAYERS = ("bronze", "dead_letters", "silver", "gold")
_DUCKDB_SHARE = 0.85
_NAME = re.compile(r"(bronze|dead_letters|silver|gold)\.[a-z][a-z0-9_]*")
# DuckDB's names of the S3 settings, by the names that clients of object stores (and dagster_deltalake's S3Config) use.
_S3_SECRET_FIELDS = {
    "access_key_id": "KEY_ID",
    "secret_access_key": "SECRET",
    "token": "SESSION_TOKEN",
    "session_token": "SESSION_TOKEN",
    "region": "REGION",
}


@dataclass(frozen=True)
class Lake:
    """A lake: a root folder or bucket prefix, and the options to reach it.

    Attributes:
        uri: Absolute local path or `s3://bucket/prefix`.
        storage_options: In the form that delta-rs takes; `dagster_deltalake`'s `LocalConfig`/`S3Config(...).str_dict()`
            fits.
    """

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if problem := refusal(self.uri):
            raise LakeError(problem)

    @property
    def is_local(self) -> bool:
        """Whether the lake is a folder of this machine."""
        return "://" not in self.uri

    def table_uri(self, name: str) -> str:
        """Return the place of a table, e.g. `bronze.shop__invoice_lines` -> `<uri>/bronze/shop__invoice_lines`.

        Raises:
            LakeError: The name is not `<layer>.<snake_case>`.
        """
        if not _NAME.fullmatch(name):
            raise LakeError(
                f"{name!r} is not a table name: use <layer>.<snake_case> with one of the layers {', '.join(LAYERS)}"
            )
        return f"{self.uri.rstrip('/')}/{name.replace('.', '/')}"

    def connect(self, *, memory_limit: str = "1GB", threads: int | None = None) -> duckdb.DuckDBPyConnection:
        """Open an in-memory DuckDB that reads Delta tables of this lake; it never holds state.

        Args:
            memory_limit: Limit of the process, e.g. "1GB". DuckDB takes 0.85 of it and spills what exceeds that to a
                temporary folder: Python and its libraries take 220 MB, buffers that DuckDB does not count 130 MB.
            threads: Worker threads; all cores when None.
        """
        con = duckdb.connect(":memory:", config={"allow_unsigned_extensions": "true"})
        con.execute("SET memory_limit = ?", [_share_of(memory_limit)])
        # The default is .tmp in the working directory, which may be read-only or a git checkout.
        con.execute("SET temp_directory = ?", [spill_path()])
        if threads:
            con.execute("SET threads = ?", [threads])
        self.prepare(con)
        return con

    def prepare(self, con: duckdb.DuckDBPyConnection) -> None:
        """Prepare a DuckDB connection (dbt's, say) to read and write this lake.

        If the connection was opened with `allow_unsigned_extensions`, DuckDB does not verify the signature of the 83 MB
        of `delta`, which would take 0.4 s of CPU each time. The file lies in a wheel beside Python code that runs
        unverified, too. Afterwards the connection loads no unsigned extension any more.
        """
        # GLOBAL, because cursors inherit it. Otherwise TIMESTAMPTZ takes the host's zone, which is no Delta type.
        con.execute("SET GLOBAL TimeZone = 'UTC'")
        load_extension(con, "delta")
        if not self.is_local:
            load_extension(con, "httpfs")
            con.execute(_s3_secret(self.storage_options))
        con.execute("SET GLOBAL allow_unsigned_extensions = false")

    @contextmanager
    def errors_explained(self) -> Iterator[None]:
        """Turn errors of the lake's storage that leave the block into the lake's own, as `explain` does.

        Raises:
            LakeUnreadableError: The storage failed a query or a read of a log.
        """
        try:
            yield
        except Exception as error:
            if (explained := self.explain(error)) is not error:
                raise explained from error
            raise

    def explain(self, error: Exception) -> Exception:
        """Turn an error of DuckDB or delta-rs into the lake's own if it comes from the lake's storage.

        Any other error is returned as it is.
        """
        return LakeUnreadableError(self.uri, error) if faults.is_of_lake(error, self.uri) else error

    def table_names(self) -> list[str]:
        """List the lake's tables, by layer. Local lakes only; an object store needs a catalog for this.

        Raises:
            LakeError: The lake is not local.
        """
        if not self.is_local:
            raise LakeError(f"tables of {self.uri} cannot be listed yet: name the table that you want")
        return [
            f"{layer}.{log.parent.name}"
            for layer in LAYERS
            for log in sorted(Path(self.uri, layer).glob("*/_delta_log"))
        ]


def _share_of(memory_limit: str) -> str:
    """Return DuckDB's share of a process's memory limit."""
    number = re.match(r"[\d.]+", memory_limit)
    return memory_limit if number is None else f"{float(number[0]) * _DUCKDB_SHARE:.6g}{memory_limit[number.end() :]}"


def load_extension(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load a DuckDB extension from its wheel, because `INSTALL` would download it at run time."""
    package = importlib.import_module(f"duckdb_extension_{name}")
    path = Path(str(package.__path__[0])) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not path.exists():
        raise LakeError(
            f"the wheel duckdb-extension-{name} holds no build for duckdb {duckdb.__version__}: pin both alike"
        )
    con.execute(f"LOAD {quote_text(str(path))}")


def _s3_secret(options: Mapping[str, str]) -> str:
    plain = {key.lower().removeprefix("aws_"): value for key, value in options.items()}
    parts = [f"{_S3_SECRET_FIELDS[key]} {quote_text(plain[key])}" for key in plain if key in _S3_SECRET_FIELDS]
    if endpoint := plain.get("endpoint", plain.get("endpoint_url")):
        parts += [
            f"ENDPOINT {quote_text(endpoint.split('://')[-1])}",
            "URL_STYLE 'path'",
            f"USE_SSL {str(not endpoint.startswith('http://')).lower()}",
        ]
    return f"CREATE OR REPLACE SECRET lake (TYPE s3, PROVIDER config{''.join(', ' + part for part in parts)})"
