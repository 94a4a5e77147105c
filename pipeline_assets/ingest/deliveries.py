"""What is to be done with the files of some days: read, leave, replace, or wait. Decided by content, not by name.

Holds the plan, made from the landing folder and the tables. Reading the files and committing them is in `landing`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
from deltalake import DeltaTable

from pipeline_assets.ingest.content import Content, read_content
from pipeline_assets.ingest.listing import fingerprints, is_settled
from pipeline_assets.ingest.path_pattern import LandedFile, PathPattern
from pipeline_assets.lake import Table

_LIVE, _REPLACED = 1, 0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Delivery:
    """A file to be read.

    Attributes:
        file: The file as listed.
        content_id: What its bytes are.
        content: What the pass over its bytes told, without its head; None if size and time were enough to know it.
    """

    file: LandedFile
    content_id: str
    content: Content | None


@dataclass
class Plan:
    """What the files of some days ask for.

    Attributes:
        read: Files whose content is not in the table.
        replaced: Path to content id of rows that a newer content of the same path replaces.
        copies: Files whose content is in the table already, from another path, and that content's id.
        waiting: Files still being written.
        unchanged: Number of files that are in the table as they are.
        expect: Positions in the log that the plan was made on.
        positions: Positions to set with the commit.
    """

    read: list[Delivery] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)
    copies: list[tuple[LandedFile, str]] = field(default_factory=list)
    waiting: list[LandedFile] = field(default_factory=list)
    unchanged: int = 0
    expect: dict[str, int | None] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)


def position_of(day: date) -> str:
    """Names the position that holds the fingerprint of a day's files."""
    return f"landing:{day.isoformat()}"


def copy_of(content_id: str) -> str:
    """Names the position that holds the day (as an ordinal) on which a content was last passed over as a copy."""
    return f"copy:{content_id}"


def extracted_at(file: LandedFile) -> datetime:
    """When the source delivered the file: its modification time, so that a rerun gives the same rows."""
    return _EPOCH + timedelta(microseconds=file.mtime_ns // 1000)


def files_of(root: Path, pattern: PathPattern, days: Iterable[date]) -> list[LandedFile]:
    """Lists the files of some days, in order of their paths."""
    wanted = set(days)
    return sorted(
        file
        for directory in pattern.directories(root)
        if pattern.day_of(directory) in wanted or pattern.day_of(directory) is None
        for file in pattern.files(root, directory)
        if file.date in wanted
    )


def in_tables(con: duckdb.DuckDBPyConnection, tables: Iterable[Table], days: Iterable[date]) -> dict[str, set[tuple[str, datetime]]]:
    """Finds which contents of which paths lie in the partitions of some days: path -> (content id, delivered at)."""
    listed = ", ".join(f"DATE '{day}'" for day in sorted(days))
    found: dict[str, set[tuple[str, datetime]]] = {}
    for table in tables:
        if not table.exists():
            continue
        rows = con.execute(
            f"SELECT DISTINCT _source.file, _batch_id, _extracted_at FROM {table.scan()} WHERE _partition_date IN ({listed})"
        )
        for path, content_id, at in rows.fetchall():
            found.setdefault(path, set()).add((content_id, at.astimezone(UTC)))
    return found


def plan(
    log: DeltaTable,
    known: Mapping[str, set[tuple[str, datetime]]],
    root: Path,
    files: Iterable[LandedFile],
    *,
    days: Iterable[date],
    settle_seconds: float,
) -> Plan:
    """Decides what to do with the files of some days.

    The outcome depends on what lies in the folder and what is in the table, not on the order of deliveries: each
    content that a path of these days has now is in the table once; a content that no path has any more stays if its
    path is gone (archived), and goes if its path has another content now.

    Args:
        log: The bronze table as it is now.
        known: What `in_tables` found for these days.
        root: The landing folder.
        files: The files of these days.
        days: The days.
        settle_seconds: Younger files wait.
    """
    result = Plan()
    now = datetime.now(UTC).timestamp()
    settled = []
    for file in files:
        if is_settled(file, now=now, settle_seconds=settle_seconds):
            settled.append(file)
        else:
            result.waiting.append(file)
    stored, unfinished = _stored(log, known)
    contents: dict[str, Content] = {}
    current: dict[str, str] = {}
    for file in settled:
        same = [content_id for content_id, at in known.get(file.path, ()) if _looks_same(file, content_id, at)]
        if not same:
            contents[file.path] = replace(read_content(root / file.path), head=b"")  # a megabyte each otherwise
        current[file.path] = same[0] if same else contents[file.path].content_id
    for path, content_id in stored.items():
        if path in current and (current[path] != content_id or path in unfinished):
            result.replaced[path] = content_id
    goes = set(result.replaced.values())
    live = {content_id for path, content_id in stored.items() if path not in result.replaced}
    for file in settled:
        content_id = current[file.path]
        if stored.get(file.path) == content_id and file.path not in result.replaced:
            result.unchanged += 1
            continue
        name = f"content:{content_id}"
        before = log.transaction_version(name)
        if content_id in live or (before == _LIVE and content_id not in goes):
            result.copies.append((file, content_id))
            result.positions[copy_of(content_id)] = file.date.toordinal()
            continue
        live.add(content_id)
        result.expect[name] = before
        result.positions[name] = _LIVE
        result.read.append(Delivery(file, content_id, contents.get(file.path)))
    for content_id in result.replaced.values():
        if content_id not in live:
            result.positions[f"content:{content_id}"] = _REPLACED
    prints, _, _ = fingerprints(settled, settle_seconds=0)
    for day in days:
        result.expect[position_of(day)] = log.transaction_version(position_of(day))
        if day in prints:
            result.positions[position_of(day)] = prints[day]
    return result


def _stored(
    log: DeltaTable, known: Mapping[str, set[tuple[str, datetime]]]
) -> tuple[dict[str, str], set[str]]:
    """Tells which contents the log says are in the table, and paths whose last reading was killed before its commit.

    Dead letters are committed before rows: letters of a content that the log does not know are such a trace.
    """
    stored: dict[str, str] = {}
    unfinished = set()
    for path, entries in known.items():
        for content_id, _ in entries:
            if log.transaction_version(f"content:{content_id}") == _LIVE:
                stored[path] = content_id
            else:
                unfinished.add(path)
    return stored, unfinished


def _looks_same(file: LandedFile, content_id: str, at: datetime) -> bool:
    """Whether size and time say that a file was not rewritten since it was read (as rsync decides it)."""
    return content_id.endswith(f"-{file.size_bytes}") and at == extracted_at(file)
