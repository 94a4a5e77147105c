"""Processes that die by SIGKILL between two of their steps, for tests that start them and wait for them; and a kill at
a commit within the test's own process.

Most are forks of a worker that has done what takes seconds and is the same each time: imports, dbt's parsing.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from deltalake import DeltaTable


class Killed(BaseException):
    """As SIGKILL, within this process: nothing in the way may catch it."""


def kill_at_commit(monkeypatch, at):
    """Ends what runs at one of its commits: before commit number at / 2 if `at` is even, after it if odd."""
    real, steps = DeltaTable.create_write_transaction, 0

    def killing(*args, **options):
        nonlocal steps
        if steps == at:
            raise Killed
        steps += 1
        real(*args, **options)
        if steps == at:
            raise Killed
        steps += 1

    monkeypatch.setattr(DeltaTable, "create_write_transaction", killing)


def kill_between(kill_at, *steps):
    """Has the process die before the first of these functions is called (0), after that (1), before the next (2), ...

    Args:
        kill_at: When.
        steps: Functions, as (owner, name).
    """
    passed = 0

    def step():
        nonlocal passed
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    def wrap(real):
        def between(*args, **options):
            step()
            found = real(*args, **options)
            step()
            return found

        return between

    for owner, name in steps:
        setattr(owner, name, wrap(getattr(owner, name)))


@contextmanager
def worker(program, *arguments):
    """Starts a worker that ends with `fork_for_each_line`.

    Args:
        program: Python.
        arguments: Its `sys.argv[1:]`.

    Yields:
        A function that gives a fork its arguments (as JSON), and returns its exit code when it has ended: 0 for all
        well, or the signal, negative.
    """
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip

        def run(*values):
            print(json.dumps(values), file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield run
        process.stdin.close()


def fork_for_each_line(run):
    """Calls `run` in a fork with the arguments of each line of standard input; answers with the fork's exit code."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                run(*json.loads(line))
                os._exit(0)
            finally:
                os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201
