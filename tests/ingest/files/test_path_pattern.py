"""Path patterns and the walk over a landing folder."""

import os
import socket
import time
from datetime import date
from pathlib import Path

import pytest

from pipeline_assets.ingest.files.path_pattern import PathPattern, PathPatternError

DAY = date(2011, 1, 2)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("shop/{date}/*.csv*", "shop/2011-01-02/a.csv", DAY),
        ("shop/{date}/*.csv*", "shop/2011-01-02/a.csv.gz", DAY),
        ("shop/{date}/*.csv*", "shop/2011-01-02/a.json", None),
        ("shop/{date}/*.csv*", "shop/2011-01-02/x/a.csv", None),
        ("shop/{date}/*.csv*", "shop/2011-02-30/a.csv", None),
        ("shop/{date}/*.csv*", "shop/2011-1-2/a.csv", None),
        ("shop/{date}/*", "Shop/2011-01-02/a.csv", None),
        ("lines_{date:%Y%m%d}_*.csv", "lines_20110102_1.csv", DAY),
        ("lines_{date:%Y%m%d}_*.csv", "lines_2011010_1.csv", None),
        ("{date:%Y%m%d}*.csv", "201101023.csv", DAY),
        ("dt={date}/[ab]?.csv", "dt=2011-01-02/a1.csv", DAY),
        ("dt={date}/[ab]?.csv", "dt=2011-01-02/c1.csv", None),
        ("*/{date:%Y-%j}/x", "any/2011-002/x", DAY),
        ("{date:%d-%b-%y}/x", "02-Jan-11/x", DAY),
        ("a.c/{date}", "abc/2011-01-02", None),
        ("_in/{date}/*", "_in/2011-01-02/a", DAY),
    ],
)
def test_a_path_matches_or_not(pattern, path, expected):
    assert PathPattern.parse(pattern).match(path) == expected


@pytest.mark.parametrize(
    "name",
    [".a.csv", "_SUCCESS.csv", "a.csv.tmp", "a.csv.part", "a.csv.partial", "a.csv.crdownload", "a.csv.filepart",
     "a.csv.swp", "a.csv~", "a.csv.TMP"],
)  # fmt: skip
def test_temporary_names_do_not_match(name):
    assert PathPattern.parse("{date}/*.csv*").match(f"2011-01-02/{name}") is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("shop/*.csv", "has 0 placeholders"),
        ("{date}/{date}.csv", "has 2 placeholders"),
        ("/shop/{date}/*", "relative to the landing root"),
        ("s3://bucket/{date}/*", "relative to the landing root"),
        ("c:/x/{date}", "relative to the landing root"),
        ("../{date}/*", "'..'"),
        ("shop//{date}", "empty parts"),
        ("", "is no path pattern"),
        ("{day}/*", "only {date} is"),
        ("{date:%Y-%m}/*", "does not name one day"),
        ("{date:%Y-%q-%d}/*", "cannot stand in the date format"),
        ("{date:%Y%Y%m%d}/*", "at most once"),
        ("{date:}/*", "does not name one day"),
        ("{date}/{*", "only enclose a date"),
    ],
)
def test_a_pattern_that_names_no_date_is_refused(pattern, message):
    with pytest.raises(PathPatternError) as caught:
        PathPattern.parse(pattern)
    assert message in str(caught.value)


def touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_walk_finds_files_with_their_size_and_time(tmp_path):
    touch(tmp_path / "shop/2011-01-03/b.csv", b"12345")
    path = touch(tmp_path / "shop/2011-01-02/a.csv", b"123")
    os.utime(path, ns=(1, 1_300_000_000_123_456_789))
    found = list(PathPattern.parse("shop/{date}/*.csv").walk(tmp_path))
    assert [(f.path, f.date, f.size_bytes) for f in found] == [
        ("shop/2011-01-02/a.csv", DAY, 3),
        ("shop/2011-01-03/b.csv", date(2011, 1, 3), 5),
    ]
    assert found[0].mtime_ns == 1_300_000_000_123_456_789


def test_a_date_in_the_file_name_is_found(tmp_path):
    touch(tmp_path / "a_20110102.csv")
    touch(tmp_path / "a_20110230.csv")
    assert [f.date for f in PathPattern.parse("a_{date:%Y%m%d}.csv").walk(tmp_path)] == [DAY]


def test_what_is_no_file_is_passed_over(tmp_path):
    day = tmp_path / "2011-01-02"
    touch(day / "good.csv")
    (day / "dir.csv").mkdir()
    (day / "broken.csv").symlink_to(day / "nowhere")
    (day / "loop.csv").symlink_to(day / "loop.csv")
    (day / "link.csv").symlink_to(day / "good.csv")
    os.mkfifo(day / "fifo.csv")
    touch(tmp_path / "2011-01-03")  # a file where a directory is expected
    (tmp_path / "2011-01-04").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(day)
        server.bind(os.path.relpath(day / "s.csv"))  # a socket path holds 107 bytes
        found = [f.path for f in PathPattern.parse("{date}/*.csv").walk(tmp_path)]
    assert found == ["2011-01-02/good.csv"]


def test_a_root_that_does_not_exist_holds_nothing(tmp_path):
    assert list(PathPattern.parse("{date}/*.csv").walk(tmp_path / "none")) == []
    assert list(PathPattern.parse("{date}.csv").walk(tmp_path / "none")) == []


def test_only_directories_that_can_match_are_opened(tmp_path, monkeypatch):
    for name in ("shop/2011-01-02", "shop/not-a-day", "shop/_2011-01-02", "other/2011-01-02"):
        touch(tmp_path / name / "a.csv")
    opened = []

    def spy(listing):
        def spied(at):
            opened.append((Path(f"/proc/self/fd/{at}").readlink() if isinstance(at, int) else Path(at)).name)
            return listing(at)

        return spied

    for function in ("scandir", "listdir"):
        monkeypatch.setattr(os, function, spy(getattr(os, function)))
    list(PathPattern.parse("shop/{date}/*.csv").walk(tmp_path))
    assert opened == ["shop", "2011-01-02"]


def test_a_directory_tells_when_its_names_changed(tmp_path):
    pattern = PathPattern.parse("{date}/*.csv")
    touch(tmp_path / "2011-01-02/a.csv")
    (before,) = pattern.directories(tmp_path)
    time.sleep(0.01)
    touch(tmp_path / "2011-01-02/b.csv")
    (after,) = pattern.directories(tmp_path)
    assert after.mtime_ns > before.mtime_ns
    assert after.path == "2011-01-02"


def test_a_directory_that_vanishes_during_the_walk_holds_nothing(tmp_path):
    pattern = PathPattern.parse("{date}/*.csv")
    file = touch(tmp_path / "2011-01-02/a.csv")
    (directory,) = pattern.directories(tmp_path)
    file.unlink()
    file.parent.rmdir()
    assert list(pattern.files(tmp_path, directory)) == []
