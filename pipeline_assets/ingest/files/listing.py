"""What lies in a landing folder: a fingerprint for each day, found without looking at what did not change.

This module holds the listing and its cache. `components.automation.landing_sensor` decides which days need a run, and
`ingest.files.plan` what is done with the files.
"""

import json
import logging
import time
import zlib
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import blake2b
from pathlib import Path

from pipeline_assets.ingest.files.path_pattern import LandedFile, PathPattern

_log = logging.getLogger(__name__)

# A folder whose own mtime did not change gained and lost no file; only a file that was rewritten in place can hide in
# it. So each listing looks again into unchanged folders, in turn, for this many files (0.1 s): a small landing folder
# is seen completely each time, a folder of 100,000 files within five listings.
_SWEPT_FILES = 20_000
_LONGEST_GAP = timedelta(days=31)
_FINGERPRINT_BITS = 63  # a Delta application transaction holds a signed 64-bit number


@dataclass(frozen=True)
class Folder:
    """What the last listing saw in one folder.

    Attributes:
        mtime_ns: The folder's own modification time.
        days: Day to fingerprint of its settled files.
        files: Number of settled files.
        waiting: Number of files that were still being written.
    """

    mtime_ns: int
    days: Mapping[date, int]
    files: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class Listing:
    """The landing folder at one moment, and the cache that makes the next look cheap.

    Attributes:
        folders: Folder path to what was in it.
        swept_to: The last unchanged folder that was looked into again; the next listing continues after it.
    """

    folders: Mapping[str, Folder] = field(default_factory=dict)
    swept_to: str = ""

    @property
    def days(self) -> dict[date, int]:
        """Day to fingerprint of all its settled files (names, sizes, modification times)."""
        totals: dict[date, int] = defaultdict(int)
        for folder in self.folders.values():
            for day, fingerprint in folder.days.items():
                totals[day] = (totals[day] + fingerprint) % 2**_FINGERPRINT_BITS
        return dict(totals)

    @property
    def waiting(self) -> int:
        """Number of files that are still being written."""
        return sum(folder.waiting for folder in self.folders.values())

    def to_text(self) -> str:
        """Write the listing as text for a cursor: about 25 bytes for each folder and day."""
        folders = {
            name: [
                folder.mtime_ns,
                {day.isoformat(): value for day, value in folder.days.items()},
                folder.files,
                folder.waiting,
            ]
            for name, folder in self.folders.items()
        }
        return b64encode(zlib.compress(json.dumps([self.swept_to, folders]).encode())).decode()

    @classmethod
    def from_text(cls, text: str | None) -> "Listing":
        """Read a listing from text; an unreadable text gives an empty cache, which only costs one full look."""
        if not text:
            return cls()
        try:
            swept_to, folders = json.loads(zlib.decompress(b64decode(text)))
            return cls(
                {
                    name: Folder(mtime, {date.fromisoformat(day): value for day, value in days.items()}, files, waiting)
                    for name, (mtime, days, files, waiting) in folders.items()
                },
                swept_to,
            )
        except (ValueError, TypeError, AttributeError, zlib.error):
            return cls()


def is_settled(file: LandedFile, *, now: float, settle_seconds: float) -> bool:
    """Tell whether a file was left alone long enough to be read. A clock ahead of ours delays it, but not for ever."""
    return abs(now - file.mtime_ns / 1e9) >= settle_seconds


def look(root: Path, pattern: PathPattern, *, last: Listing, settle_seconds: float) -> Listing:
    """List a landing folder, reading only sub-folders that changed since the last listing.

    Args:
        root: The landing folder.
        pattern: The source's path pattern.
        last: The listing before, or an empty one.
        settle_seconds: Younger files wait.

    Returns:
        The new listing.
    """
    directories = {directory.path: directory for directory in pattern.directories(root)}
    unchanged = [
        path
        for path, directory in directories.items()
        if (known := last.folders.get(path)) and known.mtime_ns == directory.mtime_ns and not known.waiting
    ]
    swept = _sweep(unchanged, last)
    folders = {path: last.folders[path] for path in unchanged if path not in swept}
    for path, directory in directories.items():
        if path not in folders:
            try:
                days, files, waiting = fingerprints(pattern.files(root, directory), settle_seconds=settle_seconds)
            except OSError as error:  # the run of its day fails and says why; other folders are still listed
                _log.warning("%s cannot be listed: %s", directory.path, error.strerror)
                days, files, waiting = {day: 0 for day in (pattern.day_of(directory),) if day is not None}, 0, 1
            folders[path] = Folder(directory.mtime_ns, days, files, waiting)
    return Listing(folders, swept[-1] if swept else last.swept_to)


def _sweep(unchanged: list[str], last: Listing) -> list[str]:
    """Choose unchanged folders to look into again: in turn, for about `_SWEPT_FILES` files, at least one folder."""
    start = bisect_right(unchanged, last.swept_to)
    swept: list[str] = []
    files = 0
    for path in unchanged[start:] + unchanged[:start]:
        files += last.folders[path].files
        if swept and files > _SWEPT_FILES:
            break
        swept.append(path)
    return swept


def fingerprints(files: Iterable[LandedFile], *, settle_seconds: float) -> tuple[dict[date, int], int, int]:
    """Sum up files as a fingerprint for each day; count the settled files, and those still being written."""
    now, settled, waiting = time.time(), 0, 0
    days: dict[date, int] = defaultdict(int)
    for path, day, size_bytes, mtime_ns in files:  # 100,000 files in one look, so each step matters
        if abs(now - mtime_ns / 1e9) < settle_seconds:  # as is_settled() says
            waiting += 1
            continue
        settled += 1
        facts = f"{path}|{size_bytes}|{mtime_ns}".encode()
        days[day] += int.from_bytes(blake2b(facts, digest_size=8).digest())
    return {day: total % 2**_FINGERPRINT_BITS for day, total in days.items()}, settled, waiting


def ranges(dirty: Collection[date], listed: Collection[date]) -> list[tuple[date, date]]:
    """Group days into ranges, one run for each.

    Clean days with files split a range. Days without files do not, up to a month of them: a holiday does not justify
    two runs, and a correction of ten years ago does not justify a run over ten years.

    Args:
        dirty: Days that need a run.
        listed: All days that have files.

    Returns:
        First and last day of each range, in order.
    """
    found: list[tuple[date, date]] = []
    open_range = False
    for day in sorted({*dirty, *listed}):
        if day not in dirty:
            open_range = False
        elif open_range and day - found[-1][1] <= _LONGEST_GAP:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
            open_range = True
    return found
