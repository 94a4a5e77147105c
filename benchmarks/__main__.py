"""`python -m benchmarks [name ...]`: runs the benchmarks, prints one table each, writes `results/<name>.json`."""

import importlib
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.figures import NAMES


def main(names: list[str]) -> int:
    """Runs the named benchmarks, all when none is named; 1 if a target was missed, 2 for an unknown name."""
    console = Console()
    if unknown := sorted(set(names) - set(NAMES)):
        console.print(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", style="red")
        return 2
    missed = 0
    for name in names or NAMES:
        started = time.perf_counter()
        with (
            console.status(f"{name} ..."),
            tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as folder,
        ):
            result = importlib.import_module(f"benchmarks.{name}").run(Path(folder))
        seconds = time.perf_counter() - started
        report.show(result, console)
        console.print(f"  {report.write(result, seconds)} ({seconds:.0f} s)\n", style="dim", highlight=False)
        missed += sum(not target.met for target in result.targets)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
