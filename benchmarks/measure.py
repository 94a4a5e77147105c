"""Runs contenders as fresh processes, in turn, and takes wall seconds, CPU seconds and memory of each. Linux only.

CPU seconds are of the process and all that it waited for (dbt, say). Memory is the largest sum of resident bytes of
the process and its descendants, looked at every 20 ms; shared pages count once per process, so it is an upper bound. A
descendant counts from the second look on: between fork and exec it seems to hold all that its parent holds.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median

_SAMPLE_SECONDS = 0.02
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ContenderError(Exception):
    """A contender failed; the message holds its own words."""


@dataclass(frozen=True)
class Usage:
    """What one process and its descendants took.

    Attributes:
        wall_seconds: From start to end.
        cpu_seconds: User and system time of all of them.
        peak_rss_mb: Largest sum of their resident memory, in MiB.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_rss_mb: float


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: Shown in the table.
        command: The process.
        env: Variables beside those of this process.
        prepare: Done before each run, untimed: removes what the last run left.
        after: Done after each run, untimed: gathers what the run says of itself.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


def alternate(contenders: Sequence[Contender], rounds: int) -> dict[str, list[Usage]]:
    """Runs all contenders in turn, `rounds` times, so that a busy moment of the machine hits all alike."""
    found: dict[str, list[Usage]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            contender.prepare()
            found[contender.name].append(run(contender.command, contender.env))
            contender.after()
    return found


def middle(usages: Sequence[Usage]) -> Usage:
    """Medians, each figure by itself."""
    return Usage(
        median(usage.wall_seconds for usage in usages),
        median(usage.cpu_seconds for usage in usages),
        median(usage.peak_rss_mb for usage in usages),
    )


def run(command: Sequence[str], env: Mapping[str, str]) -> Usage:
    """Runs one process to its end.

    Raises:
        ContenderError: It failed.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **env}, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        peak, known = 0, {process.pid}
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            tree = dict(_resident_bytes(process.pid))
            peak = max(peak, sum(size for pid, size in tree.items() if pid in known))
            known |= tree.keys()
            time.sleep(_SAMPLE_SECONDS)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace")[-4000:]
            raise ContenderError(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    peak = max(peak, usage.ru_maxrss * 1024)  # of the largest process: a short peak may hide between two looks
    return Usage(wall, usage.ru_utime + usage.ru_stime, peak / 2**20)


def _resident_bytes(pid: int) -> Iterator[tuple[int, int]]:
    """Process id and resident memory of a process and its descendants; without those that have ended meanwhile."""
    try:
        yield pid, int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        children = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except (OSError, IndexError):
        return
    for child in chain.from_iterable(children):
        yield from _resident_bytes(int(child))
