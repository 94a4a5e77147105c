"""A process that dies by SIGKILL between two of its steps: for workers that tests start and wait for."""

import os
import signal


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
