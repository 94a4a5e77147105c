"""The private folder where this process spills what does not fit in memory.

The files hold what the pipeline reads, in clear text. So no other user may read them or foresee their names, and they
must not outlive the process. A process holds the lock of its folder for as long as it lives. The next process takes the
lock of a folder that a killed process left, and deletes it.
"""

import atexit
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

_LOG = logging.getLogger(__name__)
_PREFIX = "pipeline_assets-"
_LOCK = "owner.lock"
# A folder without a lock is just being made, or comes from a version that had no locks.
_UNLOCKED_FOR_SECONDS = 86_400


def spill_folder() -> Path:
    """Return the folder of this process, mode 0700. A fork gets its own folder, and so does another user."""
    return _folder_of(os.getpid(), os.geteuid())


def spill_path() -> str:
    """Return a path for one DuckDB, which creates and deletes it. Two in one folder would use the same file names."""
    return str(spill_folder() / uuid4().hex)


@lru_cache(maxsize=2)
def _folder_of(pid: int, user: int) -> Path:
    sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    made = folder / "new.lock"  # under its final name a sweep could lock it first and delete the folder
    lock = os.open(made, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)  # stays open until the process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    made.rename(folder / _LOCK)
    atexit.register(_remove, folder, pid)
    return folder


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # a fork runs this, too
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Delete the folders that killed processes of this user left behind."""
    try:
        found = [entry for entry in os.scandir(parent) if entry.name.startswith(_PREFIX)]
    except OSError as error:
        _LOG.warning("%s cannot be searched for what killed processes left: %s", parent, error.strerror)
        return
    for entry in found:
        try:
            status = entry.stat(follow_symlinks=False)
            is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            if is_own and _is_abandoned(Path(entry.path), status.st_mtime):
                shutil.rmtree(entry.path, ignore_errors=True)
        except OSError:  # another process was faster
            continue


def _is_abandoned(folder: Path, modified: float) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - modified > _UNLOCKED_FOR_SECONDS
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
