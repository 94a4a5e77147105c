"""What is to be done with the files of some days: read, leave, replace, or wait. The content decides, not the name.

The plan is made here, from the landing folder and the tables; `ingest` reads the files and commits them.

The rule: each content is in the table once, and belongs to the first file (by day, then by path) that holds it now. So
the outcome depends on what lies in the folder, not on the order in which files arrived or were read. Rows of a file
that is no longer there (archived) stay.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb

from pipeline_assets.ingest.files.content import Content, read_content
from pipeline_assets.ingest.files.listing import fingerprints, is_settled
from pipeline_assets.ingest.files.path_pattern import LandedFile, PathPattern
from pipeline_assets.ingest.files.unread import Cause, cause_of
from pipeline_assets.lake import Positions, Table, days_predicate

DAY_PREFIX = "landing:"
"""Prefix of the positions of days."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Stored:
    """A content of a path, as rows or dead letters of the tables show it.

    Attributes:
        day: The partition that it lies in.
        content_id: Identity of the file's bytes at the time.
        delivered_at: Modification time of the file.
        is_unread: Whether one dead letter stands for the whole file.
    """

    day: date
    content_id: str
    delivered_at: datetime
    is_unread: bool = False


@dataclass(frozen=True)
class Delivery:
    """A file to be read.

    Attributes:
        file: The file as listed.
        content_id: Identity of its bytes.
        content: What the pass over its bytes found, without its head; None if size and time were enough to know it.
    """

    file: LandedFile
    content_id: str
    content: Content | None


@dataclass
class Plan:
    """What is to be done with the files of some days.

    Attributes:
        read: Files whose content is to come into the table.
        gone: Contents that are removed from the table, with the day that they lie in.
        stale: Dead letters (day, content id) of readings that were killed before or after their commit.
        corrected: Paths whose former content is among `gone`.
        copies: Files whose content is in the table already, and belongs to another file.
        waiting: Files still being written, and files that cannot be read.
        left: Paths of files that cannot be read, with the cause.
        unchanged: Number of files that are in the table as they are.
        expect: Positions in the log that the plan was made on.
        positions: Positions to set with the commit.
    """

    read: list[Delivery] = field(default_factory=list)
    gone: set[tuple[date, str]] = field(default_factory=set)
    stale: set[tuple[date, str]] = field(default_factory=set)
    corrected: set[str] = field(default_factory=set)
    copies: list[tuple[LandedFile, str]] = field(default_factory=list)
    waiting: list[LandedFile] = field(default_factory=list)
    left: dict[str, Cause] = field(default_factory=dict)
    unchanged: int = 0
    expect: dict[str, int | None] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)

    @property
    def orphaned(self) -> set[str]:
        """Contents that are removed from the table, and that no other file brings back."""
        return {content_id for _, content_id in self.gone} - {delivery.content_id for delivery in self.read}


def position_of(day: date) -> str:
    """Name the position that holds the fingerprint of a day's files."""
    return f"{DAY_PREFIX}{day.isoformat()}"


def owner_of(content_id: str) -> str:
    """Name the position that holds the day (as an ordinal) in which a content lies; 0 once it has left the table."""
    return f"content:{content_id}"


def extracted_at(file: LandedFile) -> datetime:
    """Give when the source delivered the file: its modification time, so that a rerun gives the same rows."""
    return _EPOCH + timedelta(microseconds=file.mtime_ns // 1000)


def files_of(root: Path, pattern: PathPattern, days: Collection[date]) -> tuple[list[LandedFile], dict[str, Cause]]:
    """List the files of some days, in order of day and path; and folders that cannot be listed, with the cause."""
    found: list[LandedFile] = []
    closed: dict[str, Cause] = {}
    for directory in pattern.directories(root):
        if (day := pattern.day_of(directory)) is not None and day not in days:
            continue
        try:
            found += [file for file in pattern.files(root, directory) if file.date in days]  # all of them, or none
        except OSError as error:
            closed[directory.path] = cause_of(error)
    return sorted(found, key=lambda file: (file.date, file.path)), closed


def identity(file: LandedFile, content: Content, *, by_day: bool = False) -> str:
    """Give the content id of a file. It includes the file, if that cannot be read, and the day of a snapshot.

    Two empty files are two failures, not a delivery and its copy. And if a snapshot goes back to what it was some days
    ago, that is new, although its bytes are not.
    """
    is_read = content.failure is None or content.whole_bytes is not None
    if is_read and not by_day:
        return content.content_id
    place = file.date if is_read else file.path
    own = hashlib.blake2b(f"{place}|{content.content_id}".encode(), digest_size=16).hexdigest()
    return f"{own}-{content.size_bytes}"


def holders(root: Path, pattern: PathPattern, content_ids: Collection[str], days: Collection[date]) -> set[date]:
    """Find other days whose files hold one of some contents; this is asked only when a content leaves the table.

    A content id ends with the file's size, so that only files of equal size are read.
    """
    sizes = {int(content_id.rpartition("-")[2]) for content_id in content_ids}
    return {
        file.date
        for file in (pattern.walk(root) if content_ids else ())
        if file.date not in days and file.size_bytes in sizes and _may_hold(root, file, content_ids)
    }


def _may_hold(root: Path, file: LandedFile, content_ids: Collection[str]) -> bool:
    """Tell whether a file holds one of some contents; True if it cannot be read, so that its day's plan says why."""
    try:
        return identity(file, read_content(root / file.path)) in content_ids
    except OSError:
        return True


def in_tables(con: duckdb.DuckDBPyConnection, tables: Iterable[Table], days: Iterable[date]) -> dict[str, set[Stored]]:
    """Find which contents of which paths lie in the partitions of some days."""
    where = days_predicate("_partition_date", days)
    found: dict[str, set[Stored]] = {}
    for table in tables:
        if not table.exists():
            continue
        rows = con.execute(
            "SELECT _source.file, _partition_date, _batch_id, _extracted_at, "
            f"count(*) = 1 AND count(_source.line) = 0 FROM {table.scan()} WHERE {where} GROUP BY ALL"
        )
        for path, day, content_id, at, is_unread in rows.fetchall():
            found.setdefault(path, set()).add(Stored(day, content_id, at.astimezone(UTC), is_unread))
    return found


def plan(
    log: Positions,
    known: Mapping[str, set[Stored]],
    root: Path,
    files: Iterable[LandedFile],
    *,
    days: Collection[date],
    settle_seconds: float,
    held_up: Collection[str] = (),
    by_day: bool = False,
    max_unpacked_bytes: int | None = None,
) -> Plan:
    """Decide what to do with the files of some days.

    Args:
        log: The positions of the bronze table as it is now.
        known: What `in_tables` found for these days.
        root: The landing folder.
        files: The files of these days, in order of day and path.
        days: The days.
        settle_seconds: Younger files wait.
        held_up: Paths of files that changed while they were read; they wait too.
        by_day: Whether a content is in the table once for each day, as for snapshots, instead of once.
        max_unpacked_bytes: As in `read_content`.
    """
    result = Plan()
    now = datetime.now(UTC).timestamp()
    settled: list[LandedFile] = []
    for file in files:
        is_at_rest = file.path not in held_up and is_settled(file, now=now, settle_seconds=settle_seconds)
        (settled if is_at_rest else result.waiting).append(file)
    contents = _identify_all(result, root, settled, known, by_day=by_day, max_unpacked_bytes=max_unpacked_bytes)
    stored, dead_letters = _stored(log, known)
    _find_corrections(result, stored, contents)
    settled = [file for file in settled if file.path in contents]
    claims: dict[str, list[LandedFile]] = {}
    for file in settled:
        claims.setdefault(contents[file.path][0], []).append(file)
    paths: dict[str, str] = {}
    for path, entry in stored.items():
        paths.setdefault(entry.content_id, path)
    for content_id, claimants in claims.items():
        _settle_claim(result, log, content_id, claimants, paths, contents)
    result.stale = dead_letters - {(delivery.file.date, delivery.content_id) for delivery in result.read}
    result.expect.update({owner_of(content_id): day.toordinal() for day, content_id in result.gone})
    result.positions.update({owner_of(content_id): 0 for content_id in result.orphaned})
    result.expect.update({position_of(day): log.get(position_of(day)) for day in days})
    prints, _, _ = fingerprints(settled, settle_seconds=0)
    held_days = {file.date for file in result.waiting if file.path in held_up}
    result.positions.update({position_of(day): value for day, value in prints.items() if day not in held_days})
    return result


def _identify_all(
    result: Plan,
    root: Path,
    files: Iterable[LandedFile],
    known: Mapping[str, set[Stored]],
    *,
    by_day: bool,
    max_unpacked_bytes: int | None,
) -> dict[str, tuple[str, Content | None]]:
    """Identify the bytes of files, by path. A file that vanished or may not be read waits, the others do not."""
    contents: dict[str, tuple[str, Content | None]] = {}
    for file in files:
        try:
            contents[file.path] = _identify(root, file, known.get(file.path, ()), by_day, max_unpacked_bytes)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                result.left[file.path] = cause_of(error)
            result.waiting.append(file)
    return contents


def _find_corrections(
    result: Plan, stored: Mapping[str, Stored], contents: Mapping[str, tuple[str, Content | None]]
) -> None:
    """Find paths whose content in the table is removed, because the file holds another content now."""
    for path in stored.keys() & contents.keys():
        content_id, content = contents[path]
        # A source that delivers the same unreadable bytes again wants another try, with other limits for example.
        is_again = stored[path].is_unread and content is not None
        if is_again or content_id != stored[path].content_id:
            result.gone.add((stored[path].day, stored[path].content_id))
            result.corrected.add(path)


def _settle_claim(
    result: Plan,
    log: Positions,
    content_id: str,
    claimants: list[LandedFile],
    paths: Mapping[str, str],
    contents: Mapping[str, tuple[str, Content | None]],
) -> None:
    """Decide which file owns a content: the first file by day and path that holds it."""
    first, name = claimants[0], owner_of(content_id)
    before = log.get(name)
    owner_day = date.fromordinal(before) if before else None
    owner_path = paths.get(content_id)
    result.expect[name] = before
    if owner_day and (owner_day, content_id) in result.gone:
        owner_day = None
    if owner_day and owner_path == first.path:
        result.unchanged += 1
    elif owner_day and (
        owner_day < first.date or (owner_day == first.date and not _moves(owner_path, first, contents))
    ):
        result.copies.append((first, content_id))
    else:
        if owner_day:
            result.gone.add((owner_day, content_id))
        result.positions[name] = first.date.toordinal()
        result.read.append(Delivery(first, content_id, contents[first.path][1]))
    result.copies.extend((file, content_id) for file in claimants[1:])


def _moves(owner_path: str | None, first: LandedFile, contents: Mapping[str, object]) -> bool:
    """Tell whether a content moves to another file of its day: only if its file is still there, and not archived."""
    return owner_path is not None and owner_path in contents and first.path < owner_path


def _identify(
    root: Path, file: LandedFile, known: Iterable[Stored], by_day: bool, max_unpacked_bytes: int | None
) -> tuple[str, Content | None]:
    """Identify a file's bytes; read them only if size and time do not say that they were read before."""
    at = extracted_at(file)
    for entry in known:
        if entry.content_id.endswith(f"-{file.size_bytes}") and entry.delivered_at == at:
            return entry.content_id, None
    content = replace(read_content(root / file.path, max_unpacked_bytes), head=b"")  # otherwise a megabyte each
    return identity(file, content, by_day=by_day), content


def _stored(log: Positions, known: Mapping[str, set[Stored]]) -> tuple[dict[str, Stored], set[tuple[date, str]]]:
    """Give the contents that are in the table according to the log, and dead letters of contents that are not.

    Dead letters are added before the rows' commit and removed after it, so a kill can leave some of contents that are
    not in the table.
    """
    stored: dict[str, Stored] = {}
    dead_letters = set()
    for path, entries in known.items():
        for entry in entries:
            if log.get(owner_of(entry.content_id)) == entry.day.toordinal():
                stored[path] = entry
            else:
                dead_letters.add((entry.day, entry.content_id))
    return stored, dead_letters
