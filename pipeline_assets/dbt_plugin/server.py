"""dbt as a process that stays: reads calls on standard input, and prints what dbt prints. Started by `DbtServer`.

dbt needs 6 CPU seconds to start (imports, the parsed project) and a small layer of models 2. This process starts once
and does what its owner asks for, one call after the other: {"arguments": [...], "environment": {...}} in, dbt's log
lines and one line {"exit_code": ...} out. It ends when its standard input does.

Nothing is left of a call for the next one but the parsed project: environment, settings, DuckDB and plugin are made
anew. Does not hold: Dagster, and what is to be built.
"""

import gc
import json
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest

from pipeline_assets.settings import load_settings

_LOG = logging.getLogger(__name__)


def main() -> None:
    """Carry out calls until standard input ends. The arguments: the file of the parsed project."""
    runner = dbtRunner(manifest=_parsed(Path(sys.argv[1])))
    while line := sys.stdin.readline():
        call = json.loads(line)
        code = _carry_out(runner, call["arguments"], call["environment"])
        sys.stdout.write(f"\n{json.dumps({'exit_code': code})}\n")
        sys.stdout.flush()


def _carry_out(runner: dbtRunner, arguments: list[str], environment: dict[str, str]) -> int:
    """Runs dbt once; gives the exit code that its command would have."""
    os.environ.clear()
    os.environ.update(environment)
    load_settings.cache_clear()
    try:
        done = runner.invoke(arguments)
    finally:
        _close_database()
    if done.exception is not None:
        sys.stdout.write(f"{done.exception}\n")
    return 0 if done.success else 1 if done.exception is None else 2


def _close_database() -> None:
    """Closes dbt-duckdb's database, which is its class's: the next call would have this one's views and memory."""
    environment: Any = DuckDBConnectionManager._ENV
    if environment is not None:
        environment.close()
        DuckDBConnectionManager.close_all_connections()
    gc.collect()


def _parsed(path: Path) -> Manifest | None:
    """The project as `dbt parse` left it; None if it did not, or another version of dbt did: then dbt parses itself."""
    try:
        manifest = Manifest.from_msgpack(path.read_bytes())
    except Exception as error:  # noqa: BLE001  # written by whatever version of dbt: any error means it is no use
        _LOG.warning("dbt parses the project in each call, because %s cannot be read: %s", path, error)
        return None
    if manifest.metadata.dbt_version != version("dbt-core"):
        return None
    manifest.build_flat_graph()
    return manifest


if __name__ == "__main__":
    main()
