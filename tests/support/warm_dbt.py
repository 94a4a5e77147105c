"""dbt in this process, on a project that is parsed once: the real one, if no other is named."""

from collections.abc import Callable
from pathlib import Path

from dbt.cli.main import dbtRunner, dbtRunnerResult

PROJECT = Path(__file__).parents[2] / "dbt_project"


def warm_dbt(folder: Path, project: Path = PROJECT) -> Callable[..., dbtRunnerResult]:
    """Parses a project (4 s for ours), and returns what runs a command of dbt on it.

    Args:
        folder: Where artefacts and logs go.
        project: Folder of the project.
    """
    where = ["--project-dir", str(project), "--profiles-dir", str(PROJECT)]
    where += ["--target-path", str(folder / "target"), "--log-path", str(folder / "logs")]
    parsed = dbtRunner().invoke(["--quiet", "parse", *where])
    assert parsed.success, parsed.exception
    warm = dbtRunner(manifest=parsed.result)

    def run(*args: str) -> dbtRunnerResult:
        return warm.invoke(["--quiet", "--no-write-json", *args, *where])

    return run
