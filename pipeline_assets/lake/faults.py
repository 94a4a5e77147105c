"""Whose error it is: the engine's, memory's, the system's, the lake's, or that of the bytes that were read.

The one place that tells. What follows from it is with who asks: a dead letter, a file that is left unread, another
attempt, an error that names the lake (`ingest.files.unread`, `ingest.files.formats.open_records`, `files`,
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
# By this delta-rs begins what it or the object store's client could not do, and DuckDB what its `delta_scan` could not.
_OF_STORAGE = re.compile(r"Kernel error|Generic \w+ error|Error performing|DeltaKernel")
# What the operating system says, and no reader says of bytes that it has got.
_SYSTEM = tuple(os.strerror(number) for number in errno.errorcode)
# By the start of their messages; those that somebody asks for.
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
    """Tell whether nothing can be read any more: interrupted, or the engine is broken."""
    return isinstance(error, _BROKEN) or not isinstance(error, Exception)


def is_of_memory(error: BaseException) -> bool:
    """Tell whether memory, or the room to spill to, was too small."""
    return isinstance(error, duckdb.OutOfMemoryException | MemoryError)


def is_of_system(error: BaseException) -> bool:
    """Tell whether an error is the operating system's or the network's, memory included."""
    if isinstance(error, duckdb.Error):
        return is_of_memory(error) or (isinstance(error, _OF_FILES) and any(text in str(error) for text in _SYSTEM))
    return isinstance(error, OSError | MemoryError)


def is_of_bytes(error: BaseException) -> bool:
    """Tell whether DuckDB failed at what it read, so that the same bytes fail again."""
    return isinstance(error, duckdb.Error) and not (ends_all_work(error) or is_of_system(error))


def is_of_table(error: BaseException, table_uri: str) -> bool:
    """Tell whether an error of a COPY is that of the table's storage: DuckDB names the file, whatever else is read.

    Only object stores are reached by HTTP, and what lands never is.
    """
    if isinstance(error, duckdb.HTTPException):  # an IOException, too, but with the address that was asked
        return True
    return table_uri in str(error) if isinstance(error, duckdb.IOException) else isinstance(error, OSError)


def is_of_lake(error: BaseException, uri: str) -> bool:
    """Tell whether an error of DuckDB or delta-rs, whatever they did, is that of the storage of the lake at `uri`."""
    if isinstance(error, duckdb.HTTPException):  # as in `is_of_table`
        return True
    # delta-rs has no class of its own for it.
    is_of_files = isinstance(error, duckdb.IOException) or type(error) in (OSError, DeltaError)
    return is_of_files and (_OF_STORAGE.search(str(error)) is not None or f"{uri.rstrip('/')}/" in str(error))


def of_duckdb(error: OSError) -> duckdb.Error:
    """Gives the error of DuckDB's that Arrow made an OSError of, which would pass for one of the disk."""
    return _DUCKDB_ERRORS.get(str(error).partition(" Error:")[0], duckdb.Error)(str(error))
