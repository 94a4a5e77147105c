"""Replays and discards that are killed before and after each commit, for each kind of source: in the end nothing
differs, nothing is lost or doubled, and the counts add up.
"""

import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import Killed, kill_at_commit, worker
from waiting import KINDS, Connection

from pipeline_assets.lake import Lake

STEPS = {
    "files": (8, 4),
    "pull": (6, 4),
    "poll": (6, 4),
    "change files": (14, 4),
    "slot": (12, 4),
}
"""Steps of a replay and of a discard: before and after each commit that adds rows or changes dead letters, or tells the
one log of the other; and before and after a column or a table is added."""

ROWS = {"files": (2, 5), "pull": (1, 3), "poll": (1, 3), "change files": (1, 4), "slot": (2, 6)}
"""Rows before and after a replay."""

WORKER = """
from deltalake import DeltaTable
from deltalake.table import TableAlterer
from killing import fork_for_each_line, kill_between
from waiting import KINDS
from pipeline_assets.lake import Lake


def run(name, what, kill_at, uri):
    lake = Lake(uri)
    con = lake.connect(threads=1)
    additions = (DeltaTable, "create"), (TableAlterer, "add_columns")
    kill_between(kill_at, (DeltaTable, "create_write_transaction"), *additions)
    getattr(KINDS[name], what)(lake, con)


fork_for_each_line(run)
"""


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., int]]:
    with worker(WORKER) as found:
        yield found


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with Lake(str(tmp_path_factory.mktemp("lake"))).connect(threads=1) as found:
        yield found


class Begun:
    """A lake in which dead letters wait, and copies of it."""

    def __init__(self, name: str, folder: Path, con: Connection, request: pytest.FixtureRequest) -> None:
        self.kind, self.con, self._folder = KINDS[name], con, folder / "begun"
        self._folder.mkdir()
        self.kind.read(self._folder, request)
        self.lake = Lake(str(self._folder / "lake"))
        self.waited = self.kind.places(self.lake, con, "dead_letters")
        self.records = self.places(self.lake)

    def copy(self, name: object) -> Lake:
        found = Lake(str(self._folder.with_name(str(name))))
        shutil.copytree(self.lake.uri, found.uri)
        return found

    def places(self, lake: Lake) -> list[tuple[str, int]]:
        return sorted(self.kind.places(lake, self.con, "bronze") + self.kind.places(lake, self.con, "dead_letters"))

    def has_lost(self, lake: Lake) -> set[tuple[str, int]]:
        """A dead letter is either still there, or its row is in bronze."""
        return set(self.waited) - set(self.places(lake))


def _kinds(*of_make_test: str) -> list[object]:
    marks = [pytest.mark.integration]
    return [name if name in of_make_test else pytest.param(name, marks=marks) for name in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["replay", "discard"])
@pytest.mark.parametrize("name", _kinds("files", "pull incremental", "poll"))
def test_killed_at_every_step_it_ends_like_one_that_never_was(
    tmp_path: Path, name: str, what: str, request: pytest.FixtureRequest, run: Callable[..., int], con: Connection
) -> None:
    begun, lakes, code = Begun(name, tmp_path, con, request), [], -signal.SIGKILL
    while code == -signal.SIGKILL:
        lakes.append(begun.copy(len(lakes)))
        code = run(name, what, len(lakes) - 1, lakes[-1].uri)
    assert code == 0
    found = []
    for lake in lakes:
        assert begun.has_lost(lake) == set()
        getattr(begun.kind, what)(lake, con)
        assert begun.places(lake) == begun.records, "each record once"
        found.append(begun.kind.content(lake, con))
        assert begun.kind.account(lake, con) == []
    assert [content for content in found if content != found[-1]] == []
    kind, is_discard = name.split()[0] if name.startswith("pull") else name, what == "discard"
    rows = [len(begun.kind.places(lake, con, "bronze")) for lake in (begun.lake, lakes[-1])]
    assert (len(lakes) - 1, *rows) == (STEPS[kind][is_discard], ROWS[kind][0], ROWS[kind][not is_discard])


def _killed(begun: Begun, what: str, lake: Lake, at: int) -> bool:
    with pytest.MonkeyPatch.context() as patched:
        kill_at_commit(patched, at)
        try:
            getattr(begun.kind, what)(lake, begun.con)
        except Killed:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", _kinds("poll"))
def test_after_a_killed_replay_a_discard_counts_no_record_twice(
    tmp_path: Path, name: str, request: pytest.FixtureRequest, con: Connection
) -> None:
    """Who finds a replay killed may well give the dead letters up: some of them are rows by then."""
    begun, at, is_killed = Begun(name, tmp_path, con, request), 0, True
    while is_killed:
        lake = begun.copy(at)
        is_killed = _killed(begun, "replay", lake, at)
        begun.kind.discard(lake, con)
        assert (begun.places(lake), begun.kind.account(lake, con)) == (begun.records, []), at
        at += 1
    assert at > 4


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", KINDS)
def test_killed_again_and_again_nothing_is_lost_or_doubled(
    tmp_path: Path, name: str, seed: int, request: pytest.FixtureRequest, con: Connection
) -> None:
    begun, chance = Begun(name, tmp_path, con, request), random.Random(seed)
    for number in range(4):
        lake = begun.copy(number)
        for _ in range(5):
            _killed(begun, chance.choice(["replay", "replay", "discard"]), lake, chance.randrange(8))
            assert begun.has_lost(lake) == set()
        begun.kind.replay(lake, con)
        begun.kind.discard(lake, con)
        assert (begun.places(lake), begun.kind.account(lake, con)) == (begun.records, [])
