"""dbt as a process that stays: it reads calls on standard input, and prints what dbt prints. `DbtCall` starts it.

dbt needs 6 CPU seconds to start (imports, the parsed project) and a small layer of models 2. This process starts once
and carries out one call after the other: {"arguments": [...], "environment": {...}} in, dbt's log lines and one line
{"exit_code": ...} out. It ends when its standard input does.

Calls share the parsed project only: each has its own environment, settings, DuckDB and plugin. What is to be built is
decided in `components`; nothing of Dagster is here.
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
    """Carry out calls until standard input ends; the only argument of the process is the file of the parsed project."""
    runner = dbtRunner(manifest=_parsed(Path(sys.argv[1])))
    while line := sys.stdin.readline():
        call = json.loads(line)
        code = _carry_out(runner, call["arguments"], call["environment"])
        sys.stdout.write(f"\n{json.dumps({'exit_code': code})}\n")
        sys.stdout.flush()


def _carry_out(runner: dbtRunner, arguments: list[str], environment: dict[str, str]) -> int:
    """Run dbt once; give the exit code that its command would have."""
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
    """Close dbt-duckdb's database, which its class keeps: the next call would have this one's views and memory."""
    environment: Any = DuckDBConnectionManager._ENV
    if environment is not None:
        environment.close()
        DuckDBConnectionManager.close_all_connections()
    gc.collect()


def _parsed(path: Path) -> Manifest | None:
    """Give the project as `dbt parse` of this version of dbt left it; None if there is none: then dbt parses itself."""
    try:
        manifest = Manifest.from_msgpack(path.read_bytes())
    except Exception as error:  # noqa: BLE001  # another version of dbt may have written it: then reading can fail in any way
        _LOG.warning("dbt parses the project in each call, because %s cannot be read: %s", path, error)
        return None
    if manifest.metadata.dbt_version != version("dbt-core"):
        return None
    manifest.build_flat_graph()
    return manifest


if __name__ == "__main__":
    main()
