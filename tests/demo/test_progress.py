"""What the demo shows while it runs: on a terminal, and in a pipe."""

import io
import re
import subprocess
import sys
import time

from rich.console import Console

from pipeline_assets.demo.progress import steps


def test_a_pipe_has_a_line_for_each_step_which_begins_when_the_step_does() -> None:
    shown = io.StringIO()
    with steps(Console(file=shown, width=40)) as step:
        with step("files land, in a text that is longer than forty characters") as say:
            assert shown.getvalue() == "files land, in a text that is longer than forty characters"
            say("30 of them")
        with step("[run] 2"):
            pass
    first, second = shown.getvalue().splitlines()
    assert re.fullmatch(r"files land, in .* forty characters, 30 of them \(\d+\.\d s\)", first)
    assert re.fullmatch(r"\[run\] 2 \(\d+\.\d s\)", second)


def test_a_terminal_moves_while_a_step_lasts() -> None:
    shown = io.StringIO()
    with steps(Console(file=shown, width=80, force_terminal=True)) as step, step("files land"):
        time.sleep(0.3)
        before = len(shown.getvalue())
        assert "files land" in shown.getvalue()
        time.sleep(0.5)
        assert len(shown.getvalue()) > before


def test_the_first_line_does_not_wait_for_dagster() -> None:
    program = "import sys, pipeline_assets.demo.run; print('dagster' in sys.modules, 'dbt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
