"""A run that is canceled ends within seconds, and is not tried again.

Dagster sends SIGINT to the run's process. Three things keep it from ending there, each mended here:

* Dagster tries an interrupted step again by its retry policy, as if it had failed (`RETRIES`);
* DuckDB makes of the interrupt an error of its own, which is then a step's failure (`interruptible`);
* a query or a session that is waited for outside of Python hears of no signal (`interruptible`, `interruption`).

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

# DuckDB and Python's own waiting notice a signal by themselves at once; this is for what does not.
_PATIENCE_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTS = (dg.DagsterExecutionInterruptedError, KeyboardInterrupt)
# Where the numbers of signals go: to nobody (or whoever it was before), then to each block that is open.
_wakeups = [-1]


class _UnlessCanceled(dg.RetryPolicy):
    """Dagster's policy, which also tries again what was interrupted: then a run cannot be canceled."""

    def calculate_delay(self, attempt_num: int) -> float:
        """Gives the seconds to wait; called while the error that asks for another attempt is being handled.

        Raises:
            DagsterExecutionInterruptedError: The error is an interrupt, or came of one.
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
"""How often a step that failed is tried again: what passes by itself has passed by then."""


@contextmanager
def interruptible() -> Iterator[Event]:
    """Ends what the block waits for when the run is canceled, and leaves the block with Dagster's interrupt.

    Yields:
        Set once the run is canceled, for whoever calls what may swallow an interrupt.

    Raises:
        DagsterExecutionInterruptedError: The run was canceled, whatever error came of it.
    """
    interrupted, done = Event(), Event()
    if current_thread() is not main_thread():  # a sensor's: signals do not come here
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
        if interrupted.is_set():  # somebody took DuckDB's error for one of a file, and went on
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
        # A generator that an error holds is closed late: after a block that it is in, or in a thread that may not ask
        # for signals. Then the pipe stays: its number would be that of another file.
        if current_thread() is main_thread():
            signal.set_wakeup_fd(_wakeups[-1])
            os.close(wakeup)  # which ends the watcher, and it closes the other end


def _watch(heard: int, interrupted: Event, done: Event) -> None:
    """Waits for a signal, then ends what is waited for, until the block is left."""
    while numbers := os.read(heard, 64):
        if not set(numbers).isdisjoint(_SIGNALS):
            interrupted.set()
            while not done.wait(_PATIENCE_SECONDS):
                end_all()
    os.close(heard)
