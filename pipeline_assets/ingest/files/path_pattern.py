"""Where a source's files lie: a path pattern with a date, and the walk that finds what matches it.

This module parses, matches and lists. `ingest.files.plan` decides which files are new, and reads what is in them.
"""

import fnmatch
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger(__name__)
DEFAULT_DATE_FORMAT = "%Y-%m-%d"

# A file still being written, or a marker beside the data such as _SUCCESS.
_NOT_TEMPORARY = r"(?![._])(?!.*(?i:\.tmp|\.part|\.partial|\.crdownload|\.filepart|\.swp|~)\Z)"
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_DIRECTIVES = {"Y": r"\d{4}", "m": r"\d{2}", "d": r"\d{2}", "j": r"\d{3}", "y": r"\d{2}", "b": r"[A-Za-z]{3}"}
_DAY_DIRECTIVES = ({"Y", "m", "d"}, {"y", "m", "d"}, {"Y", "j"}, {"y", "j"}, {"Y", "b", "d"}, {"y", "b", "d"})


class PathPatternError(ValueError):
    """A path pattern that cannot name one date per file; the message says what to write instead."""


class LandedFile(NamedTuple):
    """One file of a source as the listing saw it (a tuple: a listing makes 100,000 of them).

    Attributes:
        path: Path relative to the landing root, with "/".
        date: The date in the path.
        size_bytes: Size in bytes.
        mtime_ns: Modification time, nanoseconds since the epoch.
    """

    path: str
    date: date
    size_bytes: int
    mtime_ns: int

    def is_as_listed(self, root: Path) -> bool:
        """Tell whether the file has not changed since the listing."""
        try:
            status = (root / self.path).stat()
        except FileNotFoundError:
            return True  # the file was archived after it was read: what was read is what had been delivered
        return (status.st_size, status.st_mtime_ns) == (self.size_bytes, self.mtime_ns)


@dataclass(frozen=True)
class LandingDirectory:
    """A directory that can hold matching files.

    Attributes:
        path: Path relative to the landing root, "" for the root itself.
        mtime_ns: Modification time of the directory: unchanged means that no name was added, removed or renamed.
            It says nothing about a file that is still being written under its final name.
    """

    path: str
    mtime_ns: int


@dataclass(frozen=True)
class PathPattern:
    """A path relative to the landing root, with globs and exactly one date.

    `{date}` is an ISO date, `{date:%Y%m%d}` one in the given strftime format. `*`, `?` and `[...]` match within one
    part of the path. Build it with `parse`.
    """

    text: str
    parts: tuple["_Part", ...]

    @classmethod
    def parse(cls, text: str) -> "PathPattern":
        """Parse a pattern such as `shop/invoice_lines/{date}/*.csv*`.

        Raises:
            PathPatternError: No date or several, an absolute path, "..", or a date format that names no single day.
        """
        if not text or text != text.strip():
            raise PathPatternError(f"{text!r} is no path pattern: write one like 'shop/orders/{{date}}/*.csv*'")
        if text.startswith(("/", "~")) or re.match(r"[A-Za-z]:|[a-z0-9]+://", text) or "\\" in text:
            raise PathPatternError(f"{text!r}: give a path relative to the landing root, with '/' between its parts")
        names = text.split("/")
        if any(name in ("", ".", "..") for name in names):
            raise PathPatternError(f"{text!r}: '.', '..' and empty parts are not allowed, write the path out")
        if (dates := len(_PLACEHOLDER.findall(text))) != 1:
            raise PathPatternError(f"{text!r} has {dates} placeholders: exactly one {{date}} says a file's partition")
        return cls(text, tuple(_Part.parse(name, text) for name in names))

    def match(self, relative_path: str) -> date | None:
        """Give the date in a path relative to the root; None if the path does not match or is a temporary name."""
        names = relative_path.split("/")
        if len(names) != len(self.parts):
            return None
        found: date | None = None
        for part, name in zip(self.parts, names, strict=True):
            if not part.admits(name):
                return None
            found = found or part.date_of(name)
        return found

    def directories(self, root: Path) -> Iterator[LandingDirectory]:
        """Yield the directories under `root` that can hold matching files, in order of their paths.

        Only directories whose path fits the pattern so far are opened. A root that does not exist yields nothing.
        """
        yield from self._descend(root, "", 0)

    def _descend(self, root: Path, path: str, depth: int) -> Iterator[LandingDirectory]:
        if depth == len(self.parts) - 1:
            try:
                status = (root / path).stat()
            except FileNotFoundError:
                return
            if stat.S_ISDIR(status.st_mode):
                yield LandingDirectory(path, status.st_mtime_ns)
            return
        part = self.parts[depth]
        for name in self._names(root / path, part):
            yield from self._descend(root, f"{path}/{name}" if path else name, depth + 1)

    @staticmethod
    def _names(directory: Path, part: "_Part") -> list[str]:
        if part.literal is not None:  # a fixed name needs no listing of its neighbours
            return [part.literal] if (directory / part.literal).is_dir() else []
        try:
            with os.scandir(directory) as entries:
                return sorted(e.name for e in entries if part.admits(e.name) and e.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, root: Path, directory: LandingDirectory) -> Iterator[LandedFile]:
        """Yield the matching regular files directly in a directory, in order of their names.

        Directories, sockets, FIFOs, devices and links are skipped, whatever their names: a link would let anybody who
        may write here read any file of ours. If a file or the directory vanishes during the listing, it is left out.

        Raises:
            OSError: The directory cannot be listed, or one of its files cannot be looked at.
        """
        prefix = f"{directory.path}/" if directory.path else ""
        directory_day = self.day_of(directory)
        part = self.parts[-1]
        accepts, is_regular = part.regex.match, stat.S_ISREG  # once: 100,000 names are listed in one look
        with _opened(root / directory.path) as handle:
            if handle is None:
                return
            names = os.listdir(handle)  # noqa: PTH208  pathlib lists no handle
            for name in sorted(filter(accepts, names)):
                try:
                    status = os.stat(name, dir_fd=handle, follow_symlinks=False)
                except FileNotFoundError:  # gone since the listing
                    continue
                if not name.isprintable() and _is_not_utf8(name):
                    _log.warning("%r is passed over: its name is not UTF-8, rename it", prefix + name)
                    continue
                day = directory_day or part.date_of(name)
                if day is not None and is_regular(status.st_mode):
                    yield LandedFile(prefix + name, day, status.st_size, status.st_mtime_ns)

    def walk(self, root: Path) -> Iterator[LandedFile]:
        """Yield every matching file under `root`, directory by directory."""
        for directory in self.directories(root):
            yield from self.files(root, directory)

    def day_of(self, directory: LandingDirectory) -> date | None:
        """Give the date in a directory's path; None if the date is in the files' names."""
        for part, name in zip(self.parts[:-1], directory.path.split("/"), strict=bool(directory.path)):
            if part.date_format is not None:
                return part.date_of(name)
        return None


@dataclass(frozen=True)
class _Part:
    """One part of a pattern, between two slashes."""

    text: str
    expression: str
    literal: str | None
    date_format: str | None

    @classmethod
    def parse(cls, text: str, pattern: str) -> "_Part":
        placeholder = _PLACEHOLDER.search(text)
        if placeholder is None:
            if "{" in text or "}" in text:
                raise PathPatternError(f"{pattern!r}: '{{' and '}}' only enclose a date")
            if not any(c in text for c in "*?["):
                return cls(text, re.escape(text), text, None)
            return cls(text, _NOT_TEMPORARY + _glob(text), None, None)
        name, colon, given = placeholder[1].partition(":")
        if name != "date":
            raise PathPatternError(f"{pattern!r}: {{{placeholder[1]}}} is unknown, only {{date}} is")
        date_format = given if colon else DEFAULT_DATE_FORMAT
        before, after = text[: placeholder.start()], text[placeholder.end() :]
        day = f"(?P<date>{_date_expression(date_format, pattern)})"
        return cls(text, _NOT_TEMPORARY + _glob(before) + day + _glob(after), None, date_format)

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Match the names of this part; match a temporary name only if the pattern spells it out."""
        return re.compile(self.expression + r"\Z", re.DOTALL)

    def admits(self, name: str) -> bool:
        """Tell whether the name matches and, where it must hold a date, names a day."""
        return self.regex.match(name) is not None and (self.date_format is None or self.date_of(name) is not None)

    def date_of(self, name: str) -> date | None:
        """Give the date in a name; None if there is none, or if its digits name no day, as in 2011-02-30."""
        found = self.regex.match(name)
        if found is None or self.date_format is None:
            return None
        try:
            return datetime.strptime(found["date"], self.date_format).date()  # noqa: DTZ007  a day has no zone
        except ValueError:
            return None


@contextmanager
def _opened(directory: Path) -> Iterator[int | None]:
    """Yield a handle with which the system finds files without walking the path; None if there is no directory."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _is_not_utf8(name: str) -> bool:
    """Tell whether a name holds bytes that no text column can keep, although the file system allows them."""
    return any("\udc80" <= character <= "\udcff" for character in name)


def _glob(text: str) -> str:
    translated = fnmatch.translate(text)
    return translated.removeprefix("(?s:").removesuffix(r")\Z")


def _date_expression(date_format: str, pattern: str) -> str:
    """Give the regular expression of a strftime format; it fixes the number of digits, so neighbours stay apart."""
    expression, seen, at = "", set[str](), 0
    while at < len(date_format):
        if date_format[at] != "%":
            expression += re.escape(date_format[at])
            at += 1
            continue
        directive = date_format[at + 1 : at + 2]
        if directive not in _DIRECTIVES or directive in seen:
            raise PathPatternError(
                f"{pattern!r}: '%{directive}' cannot stand in the date format {date_format!r}; "
                f"use each of {', '.join('%' + d for d in _DIRECTIVES)} at most once"
            )
        seen.add(directive)
        expression += _DIRECTIVES[directive]
        at += 2
    if seen not in _DAY_DIRECTIVES:
        raise PathPatternError(f"{pattern!r}: the date format {date_format!r} does not name one day, try %Y-%m-%d")
    return expression
