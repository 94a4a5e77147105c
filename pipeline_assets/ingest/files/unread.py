"""Files that stay unread although nothing is wrong with them.

A dead letter says that these bytes are bad. It may only be written if that is proved, because a file with a dead letter
counts as read. A full disk, a missing mount, a missing permission, too little memory or time prove nothing. Such a file
is left where it lies, the others of the run are read, and the run ends with the list. `lake.faults` decides whose error
it is; `read_file` reads.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline_assets.ingest.batch.errors import ReplanError
from pipeline_assets.ingest.files.limits import FileTimeLimitError
from pipeline_assets.lake import faults

_SHOWN = 10
_MOST_IN_A_ROW = 5


@dataclass(frozen=True)
class Cause:
    """Why a file was left unread.

    Attributes:
        reason: In words, with the remedy.
        is_transient: Whether another attempt may succeed although nobody mends anything.
    """

    reason: str
    is_transient: bool = True


class FilesLeftError(Exception):
    """Files were left unread. All others of the run are in the table.

    Attributes:
        left: Path below the landing folder (of a file, or of a folder) to why it was left unread.
        report: What the run did otherwise.
    """

    def __init__(self, name: str, left: Mapping[str, Cause], report: object) -> None:
        self.left, self.report = dict(left), report
        shown = "; ".join(f"{path}: {cause.reason}" for path, cause in list(self.left.items())[:_SHOWN])
        more = f"; and {len(self.left) - _SHOWN} more" if len(self.left) > _SHOWN else ""
        super().__init__(
            f"{name}: {len(self.left)} files of the landing folder were left unread, all others are in the table. They "
            f"are read by the next run that can: {shown}{more}"
        )

    @property
    def is_transient(self) -> bool:
        """Whether another attempt may succeed although nobody mends anything."""
        return any(cause.is_transient for cause in self.left.values())


class FilesHeldUpError(ReplanError):
    """Files changed while they were read, or could not be read: the plan is made again without them."""

    def __init__(self, changed: Collection[str], left: Mapping[str, Cause]) -> None:
        super().__init__(*changed, *left)
        self.changed, self.left = set(changed), dict(left)


@dataclass
class Excluded:
    """Files that the plans of a run leave out from now on: they changed while they were read, or cannot be read.

    Attributes:
        paths: All of them.
        left: Path to cause of those that cannot be read.
    """

    paths: set[str] = field(default_factory=set)
    left: dict[str, Cause] = field(default_factory=dict)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note the files of a `FilesHeldUpError`, and raise it again so that the plan is made again without them."""
        try:
            yield
        except FilesHeldUpError as error:
            self.paths |= error.changed | error.left.keys()
            self.left |= error.left
            raise


@dataclass
class HeldUp:
    """Files of one plan that cannot be read now. All are found before the plan is made again: once, not once for each.

    Attributes:
        changed: Files that changed while they were read.
        left: Path to cause of the others.
        in_a_row: How many were left unread since one could be read.
    """

    changed: set[str] = field(default_factory=set)
    left: dict[str, Cause] = field(default_factory=dict)
    in_a_row: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether to stop trying more files: storage that is away costs a minute each time it is asked."""
        return self.in_a_row >= _MOST_IN_A_ROW

    def add(self, path: str, cause: Cause | None) -> None:
        """Note a file: with the cause, or None if it changed."""
        if cause is None:
            self.changed.add(path)
            return
        self.left[path] = cause
        self.in_a_row += cause.is_transient

    def check(self, untried: Iterable[str]) -> None:
        """Raise if any files are held up: the plan has to be made again without them, and without those not tried."""
        if self.is_hopeless:
            cause = Cause(f"not tried, because {self.in_a_row} files in a row could not be read")
            self.left |= {path: cause for path in untried if path not in {*self.left, *self.changed}}
        if self.changed or self.left:
            raise FilesHeldUpError(self.changed, self.left)


def cause_of(error: BaseException) -> Cause:
    """Give the cause of a file that an error kept from being read, through no fault of the file.

    Raises:
        BaseException: `error` itself, if nothing can be read after it: an interrupt, or the engine is broken.
    """
    if faults.ends_all_work(error):
        raise error
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if faults.is_of_memory(error):
        return Cause(
            f"limit: its reading needs more than the memory limit ({text}): raise PIPELINE_DUCKDB_MEMORY_LIMIT or have "
            "it delivered in parts",
            is_transient=False,
        )
    if isinstance(error, FileTimeLimitError):
        return Cause(str(error), is_transient=False)
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        return Cause(f"it could not be read: {error.strerror or text}{place}; mend permissions, mount or disk")
    return Cause(text)
