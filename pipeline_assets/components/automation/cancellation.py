"""A run that is canceled ends within seconds, and is not tried again.

Dagster sends SIGINT to the run's process. Three things would keep the process from ending; each is mended here:

* Dagster tries an interrupted step again by its retry policy, as if it had failed (`RETRIES`);
* DuckDB turns the interrupt into an error of its own, which then counts as a step's failure (`interruptible`);
* code that waits outside of Python, for a query or a session, does not notice signals (`interruptible`,
`interruption`).

Concept: https://docs.dagster.io/guides/build/ops/op-retries
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread, current_thread, main_thread

import dagster as dg

from pipeline_assets.interruption import end_all

# DuckDB and Python's own waiting notice a signal by themselves at once; this is for code that does not.
_PATIENCE_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTS = (dg.DagsterExecutionInterruptedError, KeyboardInterrupt)
# File descriptors that get the numbers of signals: first the one set before us (-1 is none), then one for each open
# block.
_wakeups = [-1]


class _UnlessCanceled(dg.RetryPolicy):
    """Dagster's policy would also try an interrupted step again, and then a run could not be canceled."""

    def calculate_delay(self, attempt_num: int) -> float:
        """Give the seconds to wait; Dagster calls this while it handles the error that asks for another attempt.

        Raises:
            DagsterExecutionInterruptedError: The error is an interrupt, or was caused by one.
        """
        error = sys.exception()
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            if isinstance(error, _INTERRUPTS):
                raise dg.DagsterExecutionInterruptedError from error
            seen.add(id(error))
            error = error.__cause__ or error.__context__
        return float(super().calculate_delay(attempt_num))


RETRIES = _UnlessCanceled(max_retries=2, delay=1, backoff=dg.Backoff.EXPONENTIAL)
"""How often a step that failed is tried again: an error that passes by itself has passed by then."""


@contextmanager
def interruptible() -> Iterator[Event]:
    """End what the block waits for when the run is canceled, and leave the block with Dagster's interrupt.

    Yields:
        An event that is set once the run is canceled, for code that calls something that may swallow an interrupt.

    Raises:
        DagsterExecutionInterruptedError: The run was canceled, whatever error that caused.
    """
    interrupted, done = Event(), Event()
    if current_thread() is not main_thread():  # in a sensor's thread, which gets no signals
        yield interrupted
        return
    heard, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    watcher = Thread(target=_watch, args=(heard, interrupted, done), name="interrupts", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    if len(_wakeups) == 1:
        _wakeups[0] = before
    _wakeups.append(wakeup)
    try:
        yield interrupted
        if interrupted.is_set():  # some code took DuckDB's error for one of a file, and went on
            raise dg.DagsterExecutionInterruptedError
    except _INTERRUPTS:
        raise
    except BaseException as error:
        if interrupted.is_set():
            raise dg.DagsterExecutionInterruptedError from error
        raise
    finally:
        done.set()  # first: a watcher that goes on would end each later query of the process
        _wakeups.remove(wakeup)
        # If an error holds a generator, it is closed late: after an enclosing block, or in a thread that may not set
        # signal handlers. Then the pipe stays open: its number might since belong to another file.
        if current_thread() is main_thread():
            signal.set_wakeup_fd(_wakeups[-1])
            os.close(wakeup)  # ends the watcher, which closes the other end


def _watch(heard: int, interrupted: Event, done: Event) -> None:
    """Wait for a signal, then end what is waited for, until the block is left."""
    while numbers := os.read(heard, 64):
        if not set(numbers).isdisjoint(_SIGNALS):
            interrupted.set()
            while not done.wait(_PATIENCE_SECONDS):
                end_all()
    os.close(heard)
