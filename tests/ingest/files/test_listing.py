"""Listings of a landing folder: what is found, what is not looked at again, how days become ranges."""

import os
import time
from datetime import date
from pathlib import Path

import pytest

from pipeline_assets.ingest.files import listing as listing_module
from pipeline_assets.ingest.files.listing import Listing, look, ranges
from pipeline_assets.ingest.files.path_pattern import LandingDirectory, PathPattern

PATTERN = PathPattern.parse("shop/{date}/*.csv")
FIRST, SECOND = date(2011, 1, 4), date(2011, 1, 5)


def land(root: Path, name: str, text: str = "x", *, age: float = 3600) -> Path:
    path = root / "shop" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def see(root: Path, last: Listing | None = None) -> Listing:
    return look(root, PATTERN, last=last or Listing(), settle_seconds=5)


def test_days_have_fingerprints_that_change_with_names_sizes_and_times(tmp_path: Path) -> None:
    seen = set()
    for name, text, age in (("a.csv", "x", 3600), ("b.csv", "x", 3600), ("b.csv", "xy", 3600), ("b.csv", "xy", 600)):
        land(tmp_path, f"2011-01-04/{name}", text, age=age)
        days = see(tmp_path).days
        assert set(days) == {FIRST}
        seen.add(days[FIRST])
    assert len(seen) == 4
    assert all(0 <= value < 2**63 for value in seen)


def test_young_files_wait_and_are_looked_at_again(tmp_path: Path) -> None:
    path = land(tmp_path, "2011-01-04/a.csv", age=0)
    first = see(tmp_path)
    assert (first.days, first.waiting) == ({}, 1)
    os.utime(path, (1e9, 1e9))  # the folder's own time does not change
    assert set(see(tmp_path, first).days) == {FIRST}


def test_an_unchanged_folder_is_not_listed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(1, 29):
        land(tmp_path, f"2011-01-{day:02}/a.csv")
    listing = see(tmp_path)
    land(tmp_path, "2011-01-05/b.csv")
    listed = []
    real = PathPattern.files

    def files(self: PathPattern, root: Path, directory: LandingDirectory) -> object:
        listed.append(directory.path)
        return real(self, root, directory)

    monkeypatch.setattr(PathPattern, "files", files)
    monkeypatch.setattr(listing_module, "_SWEPT_FILES", 3)
    again = see(tmp_path, listing)
    assert "shop/2011-01-05" in listed
    assert len(listed) == 4  # the changed one, and three of the others in turn
    assert {day for day in again.days if again.days[day] != listing.days[day]} == {SECOND}


@pytest.mark.parametrize(("swept_files", "listings"), [(20_000, 1), (7, 4)])
def test_a_file_rewritten_in_place_is_seen_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swept_files: int, listings: int
) -> None:
    monkeypatch.setattr(listing_module, "_SWEPT_FILES", swept_files)
    for day in range(1, 29):
        land(tmp_path, f"2011-01-{day:02}/a.csv")
    listing = see(tmp_path)
    before = listing.days
    path = tmp_path / "shop/2011-01-05/a.csv"
    with path.open("r+") as file:
        file.write("other")
    os.utime(path, (1e9, 1e9))
    for _ in range(listings):
        listing = see(tmp_path, listing)
    assert {day for day in before if listing.days[day] != before[day]} == {SECOND}


def test_a_listing_survives_its_cursor_text_and_a_broken_text_is_an_empty_cache(tmp_path: Path) -> None:
    land(tmp_path, "2011-01-04/a.csv")
    listing = see(tmp_path)
    assert Listing.from_text(listing.to_text()) == listing
    for text in (None, "", "garbage", "e30="):
        assert Listing.from_text(text) == Listing()


def test_the_text_of_a_year_of_folders_is_small(tmp_path: Path) -> None:
    for day in range(365):
        land(tmp_path, f"{date.fromordinal(FIRST.toordinal() + day)}/a.csv")
    assert len(see(tmp_path).to_text()) < 20_000


@pytest.mark.parametrize(
    ("dirty", "listed", "expected"),
    [
        ("", "1 2 3", ""),
        ("1 2 3", "1 2 3", "1-3"),
        ("1 3", "1 2 3", "1-1 3-3"),  # the second has files and is clean: it is left alone
        ("1 3", "1 3", "1-3"),  # the second has no files: one run is cheaper than two
        ("5 1 2 9", "1 2 5 7 9", "1-5 9-9"),
        ("1 31", "1 31", "1-31"),
    ],
)
def test_days_become_one_range_per_run(dirty: str, listed: str, expected: str) -> None:
    def days(text: str) -> list[date]:
        return [date(2011, 1, int(day)) for day in text.split()]

    found = ranges(days(dirty), days(listed))
    assert " ".join(f"{first.day}-{last.day}" for first, last in found) == expected


def test_a_correction_of_ten_years_ago_is_no_run_over_ten_years() -> None:
    days = [FIRST, date(2020, 12, 31)]
    assert ranges(days, days) == [(day, day) for day in days]
