"""Decides which landed files of change records are read, for which of a source's tables: by content, from the logs.

`ingest` reads and commits them. What the logs hold: `content:<id>` in a table's log is a content that the table has;
`file:<name, size, time>` and `landing:<day>` in the log of the reference are files and days that all tables have. The
reference is the first of the source's tables.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path

from pipeline_assets.ingest.cdc.formats.parse import Format
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable
from pipeline_assets.ingest.files.content import MAX_UNPACKED_MB, Content, read_content
from pipeline_assets.ingest.files.limits import MAX_SECONDS_PER_FILE
from pipeline_assets.ingest.files.listing import fingerprints, is_settled
from pipeline_assets.ingest.files.path_pattern import LandedFile, PathPattern
from pipeline_assets.ingest.files.plan import files_of, identity, owner_of, position_of
from pipeline_assets.ingest.files.unread import Cause, cause_of
from pipeline_assets.lake import Lake, Positions, Table


@dataclass(frozen=True)
class FileSource:
    """A source as declared.

    Attributes:
        name: Name of the source.
        pattern: Where its files lie, with the day in the path.
        format: Format of the records.
        tables: The tables whose changes are in the files; the first is the reference.
        max_unpacked_mb: A compressed file that holds more megabytes is one dead letter.
        max_seconds_per_file: A file whose reading takes longer is left unread.
    """

    name: str
    pattern: PathPattern
    format: Format
    tables: tuple[ChangeTable, ...]
    max_unpacked_mb: int = MAX_UNPACKED_MB
    max_seconds_per_file: float = MAX_SECONDS_PER_FILE

    def reference(self, lake: Lake) -> Table:
        """Give the table whose log says which files and days are done."""
        return self.tables[0].bronze(lake)

    @property
    def keys(self) -> Mapping[str, Sequence[str]]:
        """Source table to the columns that name a row."""
        return {table.source_table: table.row_keys for table in self.tables}


@dataclass(frozen=True)
class Delivery:
    """A file to be read.

    Attributes:
        file: The file as listed.
        content_id: Identity of its bytes.
        content: What the pass over its bytes found, without its head.
        lacking: Names of the tables that do not have its content.
    """

    file: LandedFile
    content_id: str
    content: Content
    lacking: frozenset[str]


@dataclass
class Plan:
    """What is to be done with the files of some days.

    Attributes:
        read: Files whose content is missing in some table.
        copies: Number of files whose content is in all tables, or in another file to be read.
        unchanged: Number of files that are known by name, size and time.
        waiting: Number of files that are still being written, or cannot be read.
        left: Paths of files that cannot be read, and of folders that cannot be listed, with the cause.
        expect: Positions of the reference that the plan was made on.
        positions: Positions to set there.
    """

    read: list[Delivery] = field(default_factory=list)
    copies: int = 0
    unchanged: int = 0
    waiting: int = 0
    left: dict[str, Cause] = field(default_factory=dict)
    expect: dict[str, int | None] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)


def plan(
    logs: Mapping[str, Positions],
    source: FileSource,
    root: Path,
    days: Collection[date],
    *,
    settle_seconds: float,
    held_up: Collection[str] = (),
) -> Plan:
    """Decide which files are read; a content that several files hold is read once.

    Args:
        logs: Table name to its positions as they are now.
        source: The declaration.
        root: The landing folder.
        days: The days.
        settle_seconds: Younger files wait.
        held_up: Paths of files that changed while they were read; they wait too.
    """
    todo, log = Plan(), logs[source.tables[0].name]
    done: list[LandedFile] = []
    contents: set[str] = set()
    now = datetime.now(UTC).timestamp()
    files, todo.left = files_of(root, source.pattern, days)
    for file in files:
        known = _known_by(file)
        if file.path in held_up or not is_settled(file, now=now, settle_seconds=settle_seconds):
            todo.waiting += 1
            continue
        if log.get(known) is not None:
            todo.unchanged += 1
        elif _look_into(todo, logs, root, file, contents, source.max_unpacked_mb * 1_000_000):
            todo.positions[known] = file.date.toordinal()
        else:
            todo.waiting += 1
            continue
        done.append(file)
    todo.expect.update({position_of(day): log.get(position_of(day)) for day in days})
    changing = {source.pattern.match(path) for path in held_up}
    prints, _, _ = fingerprints(done, settle_seconds=0)
    todo.positions.update({position_of(day): value for day, value in prints.items() if day not in changing})
    return todo


def _look_into(
    todo: Plan,
    logs: Mapping[str, Positions],
    root: Path,
    file: LandedFile,
    contents: set[str],
    max_unpacked_bytes: int,
) -> bool:
    """Note what a file's content needs; give False if it cannot be read now."""
    try:
        content = replace(read_content(root / file.path, max_unpacked_bytes), head=b"")  # otherwise a megabyte each
    except OSError as error:  # vanished, or not readable for us: this file waits, the others do not
        if not isinstance(error, FileNotFoundError):
            todo.left[file.path] = cause_of(error)
        return False
    content_id = identity(file, content)
    lacking = frozenset(name for name, log in logs.items() if log.get(owner_of(content_id)) is None)
    if lacking and content_id not in contents:
        todo.read.append(Delivery(file, content_id, content, lacking))
    else:
        todo.copies += 1
    contents.add(content_id)
    return True


def _known_by(file: LandedFile) -> str:
    """Name the position of a file as it lies in the folder, by which it is known again without reading it."""
    facts = f"{file.path}|{file.size_bytes}|{file.mtime_ns}".encode()
    return f"file:{hashlib.blake2b(facts, digest_size=16).hexdigest()}"
