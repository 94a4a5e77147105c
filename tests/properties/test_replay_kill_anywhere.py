"""Replays and discards that are killed with SIGKILL before and after each commit: in the end nothing differs."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from killing import worker
from records import NEXT, Mended, World

from pipeline_assets.ingest.dead_letters.discard import discard

WORKER = """
import sys
from pathlib import Path
from deltalake import DeltaTable
from killing import fork_for_each_line, kill_between
from records import Mended, World
from pipeline_assets.ingest.dead_letters.discard import discard

what = sys.argv[1]


def run(kill_at, folder):
    kill_between(kill_at, (DeltaTable, "create_write_transaction"))
    world = World(Path(folder), model=Mended)
    if what == "replay":
        world.replay()
    else:
        discard(world.con, world.bronze)


fork_for_each_line(run)
"""


def content_of(world: World) -> tuple[Any, ...]:
    columns = "_source.file, _source.line, reason, discarded_at IS NULL"
    letters = world.con.execute(f"SELECT {columns} FROM {world.letters.scan()} ORDER BY ALL").fetchall()
    found = world.audit(0.4)
    return world.rows(), letters, found.held, found.mismatches, found.counts


@pytest.mark.slow
@pytest.mark.parametrize("what", ["replay", "discard"])
def test_killed_at_every_step_it_ends_like_one_that_never_was(tmp_path: Path, what: str) -> None:
    begun = World(tmp_path / "begun")
    begun.land("2026-01-05/a.csv", "id,note\n1,a\n2,\nx,\n4,\n")
    begun.land("2026-01-06/b.jsonl", '{"id": 5}\n{"id": 6, "note": "b"}\n{"id": "x"}\n{')
    begun.ingest()
    assert len(begun.audit().held) == 2
    killed, found = 0, []
    with worker(WORKER, what) as run:
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            folder = tmp_path / str(killed)
            shutil.copytree(begun.root.parent, folder)
            code = run(killed, str(folder))
            killed += code == -signal.SIGKILL
    assert code == 0
    for kill_at in range(killed + 1):
        world = World(tmp_path / str(kill_at), model=Mended)
        if what == "replay":
            world.replay()
        else:
            discard(world.con, world.bronze)
        found.append(content_of(world))
        world.con.close()
    assert killed == (6 if what == "replay" else 4), "rows, dead letters, and the word of them: before and after each"
    assert [content for content in found if content != found[-1]] == []
    assert len(found[-1][0]) == (5 if what == "replay" else 2)
    assert found[-1][2] == ({NEXT} if what == "replay" else set())
