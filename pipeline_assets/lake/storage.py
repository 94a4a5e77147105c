"""Where the lake is: table names to places, storage options, DuckDB connections that can read and write there.

What a table does lives in `table`; how its files are written in `files`.
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
# DuckDB's names of the S3 settings, by the names that object stores' clients (and dagster_deltalake's S3Config) use.
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
        storage_options: As delta-rs takes them; `dagster_deltalake`'s `LocalConfig`/`S3Config(...).str_dict()` fits.
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
        """Gives the place of a table, e.g. `bronze.shop__invoice_lines` -> `<uri>/bronze/shop__invoice_lines`.

        Raises:
            LakeError: The name is not `<layer>.<snake_case>`.
        """
        if not _NAME.fullmatch(name):
            raise LakeError(
                f"{name!r} is no table name: use <layer>.<snake_case> with layer one of {', '.join(LAYERS)}"
            )
        return f"{self.uri.rstrip('/')}/{name.replace('.', '/')}"

    def connect(self, *, memory_limit: str = "1GB", threads: int | None = None) -> duckdb.DuckDBPyConnection:
        """Opens an in-memory DuckDB that reads Delta tables of this lake; state never lives in it.

        Args:
            memory_limit: Of the process, e.g. "1GB". DuckDB takes 0.85 of it, and spills what exceeds that to a
                temporary folder: Python and its libraries take 220 MB, buffers that DuckDB does not count 130 MB.
            threads: Worker threads; all cores when None.
        """
        con = duckdb.connect(":memory:", config={"allow_unsigned_extensions": "true"})
        con.execute("SET memory_limit = ?", [_share_of(memory_limit)])
        # The default is .tmp in the working directory, which may be read-only or a checkout.
        con.execute("SET temp_directory = ?", [spill_path()])
        if threads:
            con.execute("SET threads = ?", [threads])
        self.prepare(con)
        return con

    def prepare(self, con: duckdb.DuckDBPyConnection) -> None:
        """Gives a DuckDB connection (dbt's, say) what it needs to read and write this lake.

        Of one that was opened with `allow_unsigned_extensions`, DuckDB does not verify the signature of the 83 MB of
        `delta`, which takes 0.4 CPU s each time. The file lies in a wheel beside Python that runs unverified, too.
        Afterwards nothing unsigned can be loaded any more.
        """
        # GLOBAL: cursors of the connection inherit it. Else TIMESTAMPTZ takes the host's zone and is no Delta type.
        con.execute("SET GLOBAL TimeZone = 'UTC'")
        load_extension(con, "delta")
        if not self.is_local:
            load_extension(con, "httpfs")
            con.execute(_s3_secret(self.storage_options))
        con.execute("SET GLOBAL allow_unsigned_extensions = false")

    @contextmanager
    def errors_explained(self) -> Iterator[None]:
        """Gives errors of the lake's storage that leave a block as `explain` does.

        Raises:
            LakeUnreadableError: The storage failed a query, or a look at a log.
        """
        try:
            yield
        except Exception as error:
            if (explained := self.explain(error)) is not error:
                raise explained from error
            raise

    def explain(self, error: Exception) -> Exception:
        """Gives the lake's own error for one of its storage from DuckDB or delta-rs; any other error as it is."""
        return LakeUnreadableError(self.uri, error) if faults.is_of_lake(error, self.uri) else error

    def table_names(self) -> list[str]:
        """Lists the lake's tables, by layer. Local lakes only; an object store needs a catalog for this.

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
    """DuckDB's share of a process's memory limit."""
    number = re.match(r"[\d.]+", memory_limit)
    return memory_limit if number is None else f"{float(number[0]) * _DUCKDB_SHARE:.6g}{memory_limit[number.end() :]}"


def load_extension(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Loads a DuckDB extension from its wheel: `INSTALL` would download it at run time."""
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
