"""The place of a change in MySQL's (or MariaDB's) binary log, as one number that grows with it.

Debezium and Maxwell give a file and a position in it. Transactions are written to the log as a whole, one after another
and in the order of their commits, so the place of a change orders commits too. A server that starts its log anew (RESET
MASTER, a failover to a replica without GTID positions) starts its numbers anew: then load the tables' state again as
well.
"""

from pipeline_assets.ingest.cdc.formats.documents import RefusedError, integer, shown

_POSITION_BITS = 40  # a terabyte per file; max_binlog_size is 1 GB, and one transaction can exceed it
_FILE_BITS = 63 - _POSITION_BITS


def position(file: object, offset: object) -> int:
    """Return the place as one number: file number, then offset.

    Args:
        file: Name of the log file, e.g. `mysql-bin.000003`; the digits after its last point count.
        offset: Bytes from its start.

    Raises:
        RefusedError: One of them is missing or out of range.
    """
    number = integer(file.rpartition(".")[2]) if isinstance(file, str) else None
    at = integer(offset)
    if number is None or at is None or number >= 1 << _FILE_BITS or at >= 1 << _POSITION_BITS:
        raise RefusedError(f"position: {shown(file)} at {shown(offset)} is not a place in a binary log")
    return number << _POSITION_BITS | at
