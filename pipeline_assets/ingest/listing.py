"""What lies in a landing folder: a fingerprint per day, found without looking at what did not change.

Holds the listing and its cache. Which days need a run, and what is done with the files, is decided elsewhere
(`components.landing`, `landing`).
"""

import hashlib
import json
import time
import zlib
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pipeline_assets.ingest.path_pattern import LandedFile, PathPattern

# A folder whose own mtime did not change gained and lost no file; a file rewritten in place is all that can hide in
# it. Each listing looks again into one folder of this many, so that such a file is seen within as many listings.
_SWEEP = 20
_FINGERPRINT_BITS = 63  # a Delta application transaction holds a signed 64-bit number


@dataclass(frozen=True)
class Folder:
    """What the last listing saw in one folder.

    Attributes:
        mtime_ns: The folder's own modification time.
        days: Day to fingerprint of its settled files.
        waiting: Files that were still being written.
    """

    mtime_ns: int
    days: Mapping[date, int]
    waiting: int = 0


@dataclass(frozen=True)
class Listing:
    """The landing folder at one moment, and the cache that makes the next look cheap.

    Attributes:
        folders: Folder path to what was in it.
        tick: Number of listings so far.
    """

    folders: Mapping[str, Folder] = field(default_factory=dict)
    tick: int = 0

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
        """Packs the listing for a cursor: about 25 bytes a folder and day."""
        folders = {
            name: [folder.mtime_ns, folder.waiting, {day.isoformat(): value for day, value in folder.days.items()}]
            for name, folder in self.folders.items()
        }
        return b64encode(zlib.compress(json.dumps([self.tick, folders]).encode())).decode()

    @classmethod
    def from_text(cls, text: str | None) -> "Listing":
        """Unpacks a listing; anything unreadable is an empty cache, which only costs one full look."""
        if not text:
            return cls()
        try:
            tick, folders = json.loads(zlib.decompress(b64decode(text)))
            return cls(
                {
                    name: Folder(mtime, {date.fromisoformat(day): value for day, value in days.items()}, waiting)
                    for name, (mtime, waiting, days) in folders.items()
                },
                tick,
            )
        except (ValueError, TypeError, AttributeError, zlib.error):
            return cls()


def is_settled(file: LandedFile, *, now: float, settle_seconds: float) -> bool:
    """Whether a file was left alone long enough to be read. A clock ahead of ours does not make it wait for ever."""
    return abs(now - file.mtime_ns / 1e9) >= settle_seconds


def look(root: Path, pattern: PathPattern, *, last: Listing, settle_seconds: float) -> Listing:
    """Lists a landing folder, reading only sub-folders that changed since the last listing.

    Args:
        root: The landing folder.
        pattern: The source's path pattern.
        last: The listing before, or an empty one.
        settle_seconds: Younger files wait.

    Returns:
        The new listing.
    """
    folders: dict[str, Folder] = {}
    for directory in pattern.directories(root):
        known = last.folders.get(directory.path)
        swept = zlib.crc32(directory.path.encode()) % _SWEEP == last.tick % _SWEEP
        if known and known.mtime_ns == directory.mtime_ns and not known.waiting and not swept:
            folders[directory.path] = known
            continue
        days, waiting = fingerprints(pattern.files(root, directory), settle_seconds=settle_seconds)
        folders[directory.path] = Folder(directory.mtime_ns, days, waiting)
    return Listing(folders, last.tick + 1)


def fingerprints(files: Iterable[LandedFile], *, settle_seconds: float) -> tuple[dict[date, int], int]:
    """Sums up files as a fingerprint per day; also counts those that are still being written."""
    now, waiting = time.time(), 0
    days: dict[date, int] = defaultdict(int)
    for file in files:
        if is_settled(file, now=now, settle_seconds=settle_seconds):
            facts = f"{file.path}|{file.size_bytes}|{file.mtime_ns}".encode()
            digest = int.from_bytes(hashlib.blake2b(facts, digest_size=8).digest())
            days[file.date] = (days[file.date] + digest) % 2**_FINGERPRINT_BITS
        else:
            waiting += 1
    return dict(days), waiting


def ranges(dirty: Collection[date], listed: Collection[date]) -> list[tuple[date, date]]:
    """Groups days into ranges, one run each. Days without files do not split a range; clean days with files do.

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
        elif open_range:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
            open_range = True
    return found
