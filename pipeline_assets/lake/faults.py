"""Classifies an error: the engine's, memory's, the system's, the lake's, or that of the bytes that were read.

This is the only place that classifies them. The callers decide what follows: a dead letter, a file that is left unread,
another attempt, an error that names the lake (`ingest.files.unread`, `ingest.files.formats.open_records`, `files`,
`Lake.explain`). How Delta refuses a commit is in `sending`.
"""

import errno
import os
import re
from collections.abc import Mapping

import duckdb
from deltalake.exceptions import DeltaError

_BROKEN = (duckdb.InterruptException, duckdb.InternalException, duckdb.FatalException)
_OF_FILES = (duckdb.IOException, duckdb.HTTPException, duckdb.PermissionException)
# delta-rs begins its errors of the object store's client like this, and DuckDB those of its `delta_scan`.
_OF_STORAGE = re.compile(r"Kernel error|Generic \w+ error|Error performing|DeltaKernel")
# Texts of the operating system. No reader uses them for bytes that it has received.
_SYSTEM = tuple(os.strerror(number) for number in errno.errorcode)
# By the start of their messages; only the errors that some caller asks about.
_DUCKDB_ERRORS: Mapping[str, type[duckdb.Error]] = {
    "Out of Memory": duckdb.OutOfMemoryException,
    "IO": duckdb.IOException,
    "HTTP": duckdb.HTTPException,
    "Permission": duckdb.PermissionException,
    "INTERRUPT": duckdb.InterruptException,
    "INTERNAL": duckdb.InternalException,
    "FATAL": duckdb.FatalException,
}


def ends_all_work(error: BaseException) -> bool:
    """Tell whether nothing more can be read: the work was interrupted, or the engine is broken."""
    return isinstance(error, _BROKEN) or not isinstance(error, Exception)


def is_of_memory(error: BaseException) -> bool:
    """Tell whether memory, or the disk space to spill to, was too small."""
    return isinstance(error, duckdb.OutOfMemoryException | MemoryError)


def is_of_system(error: BaseException) -> bool:
    """Tell whether an error comes from the operating system or the network; lack of memory counts."""
    if isinstance(error, duckdb.Error):
        return is_of_memory(error) or (isinstance(error, _OF_FILES) and any(text in str(error) for text in _SYSTEM))
    return isinstance(error, OSError | MemoryError)


def is_of_bytes(error: BaseException) -> bool:
    """Tell whether DuckDB failed at what it read, so that the same bytes fail again."""
    return isinstance(error, duckdb.Error) and not (ends_all_work(error) or is_of_system(error))


def is_of_table(error: BaseException, table_uri: str) -> bool:
    """Tell whether an error of a COPY comes from the table's storage: DuckDB names the file, whatever else it reads.

    Only object stores are reached by HTTP, and landing files are never read by HTTP.
    """
    if isinstance(error, duckdb.HTTPException):  # an IOException, too, but its message holds the requested address
        return True
    return table_uri in str(error) if isinstance(error, duckdb.IOException) else isinstance(error, OSError)


def is_of_lake(error: BaseException, uri: str) -> bool:
    """Tell whether an error of DuckDB or delta-rs, in any operation, comes from the storage of the lake at `uri`."""
    if isinstance(error, duckdb.HTTPException):  # as in `is_of_table`
        return True
    # delta-rs has no separate class for such errors.
    is_of_files = isinstance(error, duckdb.IOException) or type(error) in (OSError, DeltaError)
    return is_of_files and (_OF_STORAGE.search(str(error)) is not None or f"{uri.rstrip('/')}/" in str(error))


def of_duckdb(error: OSError) -> duckdb.Error:
    """Restore the DuckDB error that Arrow turned into an OSError, which would pass for an error of the disk."""
    return _DUCKDB_ERRORS.get(str(error).partition(" Error:")[0], duckdb.Error)(str(error))
